"""Two runs on one NATS."""

import pathlib

from penstock.bus import Bus, RunLimits, RunNames, ensure_run
from penstock.chat import ChatTokenizer
from services.coordinator.testing.run import (
    fold,
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    running,
    settled,
)

STEPS = 5


async def test_two_runs_on_one_nats_do_not_disturb_each_other(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    other = RunNames(f"{names.run}-other")
    await ensure_run(bus, other, RunLimits(durability="trust"))
    runs = [
        make_coordinator(bus, each, make_recipe(folder, run=each.run), tmp_path / each.run, chat)
        for each in (names, other)
    ]
    for run in runs:
        (tmp_path / run.names.run).mkdir()
    working = [*(run.run() for run in runs), *(play_worker(bus, each, "train") for each in (names, other))]
    async with running(*working, within=60.0):
        await play_learner(bus, names, STEPS, played=True)
        await settled(runs[0], lambda: runs[0].state.over)
        assert not runs[1].state.over, "the other goes on"
        await play_learner(bus, other, STEPS, played=True)
        await settled(runs[1], lambda: runs[1].state.over)
    for each in (names, other):
        ledger = await fold(bus, each)
        assert ledger.step == STEPS and not ledger.quarantine.counts
        assert ledger.samples.admitted == sum(g.admitted.group_size for g in ledger.groups.values())
