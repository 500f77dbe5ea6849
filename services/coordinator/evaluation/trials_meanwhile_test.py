"""What a person decides while a trial looks or says its verdict: it is theirs, and pauses nothing."""

import pathlib
from contextlib import suppress
from typing import Any

import pytest

from penstock.bus import Bus, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.evaluation.trials_testing import PROMOTE, READY, REJECT, REJECTED, playing, world_of
from services.coordinator.evaluation.verdict import mismatch_kl
from services.coordinator.state.asked import Asked
from services.coordinator.testing.run import settled


async def test_a_persons_decision_is_not_taken_for_a_trials_before_the_ledger_has_it(
    bus: Bus,
    names: RunNames,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    chat: ChatTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.states[1] = (READY, "")
    await world.first_step()
    async with playing(world), world.coordinator() as made:
        await settled(made, lambda: made.ledger.served == 1)
        record = made._decided

        async def slowly(*decided: Any) -> None:
            await made.following.notify()
            with suppress(TimeoutError):
                await settled(made, lambda: bool(made.state.paused_for), within=0.5)
            await record(*decided)

        monkeypatch.setattr(made, "_decided", slowly)
        await made.decide(1, REJECT, "mine")
        await settled(made, lambda: made.ledger.rejected(1))
        seen = world.store.listed
        await settled(made, lambda: world.store.listed > seen + 1)
        assert made.state.admitting and made.ledger.decisions[1].reason == "mine"


async def test_what_was_decided_since_weight_sync_was_asked_is_newer_than_its_answer(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """By another coordinator, as two at once do no harm."""
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.states[1] = (REJECTED, "not yet known")

    async def promoted_elsewhere() -> None:
        world.store.states[1] = (READY, "")
        decided = pb.VersionDecision(step=1, decision=PROMOTE, reason="theirs")
        await append(bus, names.ledger_version_subject(1), decided.SerializeToString(), expected_last_sequence=None)

    world.store.meanwhile = promoted_elsewhere
    await world.first_step()
    async with world.coordinator() as made:
        await settled(made, lambda: made.ledger.served == 1 and world.store.listed > 2)
        assert made.state.admitting and made.ledger.decisions[1].reason == "theirs"


@pytest.mark.parametrize("paused_by", ["nobody", "a person", "a coordinator that died over its verdict"])
async def test_a_verdict_that_comes_too_late_leaves_the_run_as_it_was(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer, paused_by: str
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.engine.apart, world.store.late = 3.0, True
    await world.first_step()
    async with world.coordinator() as made:
        await settled(made, lambda: made.state.admitting)
        if paused_by != "nobody":
            assert made.recipe.canary is not None
            disagree = f"a KL of {mismatch_kl([-3.0]):.3g} exceeds mismatch_kl {made.recipe.canary.mismatch_kl:g}"
            own = f"version 1 was rejected by its trial: engine and learner disagree: {disagree}"
            await made.pause(True, "" if paused_by == "a person" else own)
        async with playing(world):
            await settled(made, lambda: world.store.refused > 0 and not made.state.paused_for)
        asked = Asked(bus, names)
        async with made._deciding:
            assert (await asked.paused(), await asked.paused_for()) == (paused_by == "a person", "")
        assert made.state.admitting == (paused_by != "a person")
