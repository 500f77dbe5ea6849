"""What of a run's recipe was changed while it went on, in words. Pure."""

import json
from collections.abc import Sequence
from itertools import pairwise

from penstock.recipes import differing
from penstock.trajectory.v1 import trajectory_pb2 as pb


def changes(recipes: Sequence[pb.RecipeRecord]) -> list[str]:
    """One sentence for each key of each record that differs from the one before."""
    return [
        f"step {after.step}: {key} {json.dumps(old)} -> {json.dumps(new)}"
        for before, after in pairwise(recipes)
        for key, old, new in differing(json.loads(before.recipe_json), json.loads(after.recipe_json))
    ]
