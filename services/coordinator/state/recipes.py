"""The run's recipe in its ledger: a coordinator that starts with another one than was recorded last writes it down."""

import json
import logging

import yaml

from penstock.bus import Bus, Fenced, RunNames, append
from penstock.recipes import Recipe, differing, dump
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.state.following import Following

logger = logging.getLogger(__name__)


async def record_recipe(bus: Bus, names: RunNames, following: Following, recipe: Recipe) -> None:
    """Appends the recipe unless the ledger has it already as its last one."""
    await following.current()
    said, known = yaml.safe_load(dump(recipe)), following.ledger.recipes
    changed = [key for key, _, _ in differing(json.loads(known[-1].recipe_json), said)] if known else []
    if known and not changed:
        return
    record = pb.RecipeRecord(number=len(known), step=following.ledger.step, recipe_json=json.dumps(said))
    record.at.GetCurrentTime()
    subject = names.ledger_recipe_subject(record.number)
    try:
        last = following.ledger.last(subject)
        await append(bus, subject, record.SerializeToString(), expected_last_sequence=last)
    except Fenced:
        logger.info("another coordinator recorded the recipe")
    if changed:
        logger.info("the run goes on with other settings: %s", ", ".join(changed))
