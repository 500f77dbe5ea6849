"""What a recipe says of certificates that could not be meant: half of the settings, or files that are not there."""

import os
import pathlib

from penstock.access import KINDS
from penstock.recipes.recipe import Recipe


def security_problems(recipe: Recipe) -> list[str]:
    """A sentence for half a configuration, and for each file that is missing or cannot be read."""
    said = recipe.security
    if said.authority is None and said.certificates is None:
        return []
    if said.authority is None or said.certificates is None:
        lacking = "authority" if said.authority is None else "certificates"
        return [f"security.{lacking}: is missing; authority and certificates belong together"]
    files = [("security.authority", pathlib.Path(said.authority))]
    files += [("security.certificates", path) for kind in (*KINDS, "nats") for path in said.pair(kind)]
    return [
        f"{key}: no file {str(path)!r} that can be read"
        for key, path in files
        if not (path.is_file() and os.access(path, os.R_OK))
    ]
