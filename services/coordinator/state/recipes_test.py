"""A run that goes on with another recipe says so in its ledger, once."""

import asyncio
import pathlib

from penstock.bus import Bus, RunNames
from penstock.chat import ChatTokenizer
from penstock.showing.changes import changes
from services.coordinator.testing.run import fold, make_coordinator, make_recipe, until


async def a_life(
    bus: Bus, names: RunNames, folder: pathlib.Path, files: pathlib.Path, chat: ChatTokenizer, workers: int, known: int
) -> None:
    """A coordinator that ends once the ledger has so many recipes and it has folded them."""
    coordinator = make_coordinator(bus, names, make_recipe(folder, rollout__workers=workers), files, chat)
    working = asyncio.create_task(coordinator.run())
    await until(bus, names, lambda ledger: len(ledger.recipes) == known and bool(ledger.groups))
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_each_change_of_the_recipe_is_one_entry_and_is_shown(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    for workers, known in ((1, 1), (1, 1), (2, 2), (2, 2), (1, 3)):
        await a_life(bus, names, folder, tmp_path, chat, workers, known)
    ledger = await fold(bus, names)
    assert changes(ledger.recipes) == ["step 0: rollout.workers 1 -> 2", "step 0: rollout.workers 2 -> 1"]
