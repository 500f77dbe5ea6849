"""While weight_sync says nothing nothing is decided: it is waited for, by name, and asked again."""

import pathlib

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.bus import Bus, RunNames, append, last_entry
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2
from penstock.telemetry.waits import snapshot
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.coordinator import Coordinator
from services.coordinator.evaluation.trials_testing import CANARY, PROMOTE, READY, World, played, playing, world_of
from services.coordinator.server import CoordinatorServicer
from services.coordinator.testing.run import settled


async def promoted_elsewhere(world: World) -> None:
    """Version 1, by a decision that the ledger has."""
    decided = pb.VersionDecision(step=1, decision=PROMOTE, reason="theirs")
    subject = world.names.ledger_version_subject(1)
    await append(world.bus, subject, decided.SerializeToString(), expected_last_sequence=None)


def waits() -> int:
    """How often weight_sync is waited for."""
    return sum(wait.on == "weight_sync" for wait in snapshot())


async def test_an_evaluation_waits_until_weight_sync_has_said_how_many_trials_of_its_version_were_ended(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """One was: the samples of its names have failed."""
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.held, world.store.ended = False, 0
    await world.first_step()
    async with world.coordinator(evaluation__every=1, seconds=60) as made:
        async with playing(world):
            await settled(made, lambda: 0 in made.ledger.evaluations)
        world.store.silent = True
        await promoted_elsewhere(world)
        await settled(made, lambda: made.ledger.promoted == 1 and waits() == 2)
        explained = await CoordinatorServicer(made).ExplainStall(coordinator_pb2.ExplainStallRequest(), None)
        said = "coordinator waits for what weight_sync says of its versions (on weight_sync, "
        assert said in explained.explanation, explained.explanation
        world.store.states[1], world.store.ended, world.store.silent = (READY, ""), 1, False
        async with playing(world):
            await settled(made, lambda: 1 in made.ledger.evaluations)
        assert not waits()
        assert [await was_played(world, task) for task in tasks(made, 1)] == [True, True, True]
        assert not all([await was_played(world, task) for task in tasks(made, 0)]), "its trial had two of three"


async def test_a_run_that_is_stopped_does_not_wait_for_weight_sync_to_evaluate(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.silent = True
    await world.first_step()
    async with world.coordinator(evaluation__every=1) as made:
        await settled(made, lambda: waits() == 2)
        await made.stop("enough")
        await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_STOPPED)
        assert 0 not in made.ledger.evaluations and waits() == 1


async def test_a_trial_is_not_lost_for_the_time_that_weight_sync_was_away(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    async with played(world) as made:
        world.store.silent = True
        await settled(made, lambda: waits() > 0 and not made.following.evaluated)
        assert world.store.states[1] == (CANARY, "") and 1 not in made.ledger.decisions
        world.store.silent, world.store.held = False, True
        decided = await world.decided()
    assert (decided.decision, decided.metrics["samples"]) == (PROMOTE, 4)


async def was_played(world: World, task: pb.GroupTask) -> bool:
    return await last_entry(world.bus, world.names.log, world.names.log_subject(task.group, 0)) is not None


def tasks(made: Coordinator, ended: int) -> list[pb.GroupTask]:
    """The evaluation of version 1 behind so many trials that were ended."""
    return made.tasks.evaluation(1, Timestamp(), ended)
