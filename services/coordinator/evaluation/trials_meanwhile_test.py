"""What a person decides while a trial looks or says its verdict: it is theirs, and pauses nothing."""

import pathlib
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.bus import Bus, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.trajectories import failed
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import ListVersionsResponse
from services.coordinator.evaluation import agreeing
from services.coordinator.evaluation.listing import ask
from services.coordinator.evaluation.trials_testing import (
    CANARY,
    PROMOTE,
    READY,
    REJECT,
    REJECTED,
    ROLL_BACK,
    playing,
    world_of,
)
from services.coordinator.evaluation.verdict import mismatch_kl
from services.coordinator.state.asked import Asked
from services.coordinator.state.peers import Peers
from services.coordinator.testing.run import publish, settled


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
    bus: Bus,
    names: RunNames,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    chat: ChatTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By another coordinator, as two at once do no harm."""
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.states[1] = (REJECTED, "not yet known")
    await world.first_step()
    stale: list[ListVersionsResponse] = []

    async def promoted_behind_it(peers: Peers) -> ListVersionsResponse:
        answer = await ask(peers)
        if not stale:
            stale.append(answer)
            world.store.states[1] = (READY, "")
            decided = pb.VersionDecision(step=1, decision=PROMOTE, reason="theirs")
            subject = names.ledger_version_subject(1)
            await append(bus, subject, decided.SerializeToString(), expected_last_sequence=None)
        return answer

    monkeypatch.setattr(agreeing, "ask", promoted_behind_it)
    async with world.coordinator() as made:
        await settled(made, lambda: made.ledger.served == 1)
        seen = world.store.listed
        await settled(made, lambda: world.store.listed > seen + 1)
        assert made.state.admitting and made.ledger.decisions[1].reason == "theirs"
        assert {info.version.step: info.state for info in stale[0].versions}[1] == REJECTED


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


async def test_a_trial_behind_one_that_a_rollback_ended_plays_anew_and_so_does_a_coordinator_that_is_started_again(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """The samples of the first trial failed: no engine held the version any more."""
    world = world_of(bus, names, folder, tmp_path, chat)
    await world.first_step()
    async with world.coordinator() as made:
        await settled(made, lambda: any(group.startswith("e00000001") for group, _ in made.following._awaited))
        await made.decide(0, ROLL_BACK, "worse")
        for task in made.tasks.evaluation(1, Timestamp()):
            for index in range(task.group_size):
                ended = failed(task, index, "m", pb.Outcome.FAILURE_TIMEOUT, "no replica held version 1 within 10 s")
                await publish(bus, names, ended)
        await made.decide(0, PROMOTE, "it was not worse")
        world.store.held = False  # the second trial is played, and not over
        world.store.states[1] = (CANARY, "")
        async with playing(world):
            await settled(made, lambda: sum(group.endswith("-1") for group, _ in made.following.evaluated) == 4)
    world.store.held = True
    async with world.coordinator(evaluation__every=1) as again:
        decided = await world.decided()
        assert (decided.decision, decided.metrics["scored"]) == (PROMOTE, 4), decided.reason
        async with playing(world):
            await settled(again, lambda: 1 in again.ledger.evaluations)
        measured = again.ledger.evaluations[1]
        assert (measured.samples, measured.metrics["failed"]) == (6, 0)
