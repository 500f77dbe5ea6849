"""Versions that are tried, over a real NATS: a fake weight_sync and fake engines with planted faults."""

import pathlib

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.bus import Bus, RunNames
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2
from penstock.weights.v1 import weights_pb2
from services.coordinator.evaluation.trials_testing import PROMOTE, READY, REJECT, REJECTED, played, playing, world_of
from services.coordinator.server import CoordinatorServicer
from services.coordinator.testing.run import drawn, publish, settled


async def test_a_good_version_is_promoted_with_its_numbers_and_measured_as_planned(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    await world.first_step()
    async with playing(world), world.coordinator():
        decided = await world.decided()
    assert decided.decision == PROMOTE and world.store.states[1][0] == READY
    said = {name: round(value, 6) for name, value in decided.metrics.items()}
    assert said == {
        "samples": 4, "samples_wanted": 4, "scored": 4, "mismatch_kl": 0, "reward": 1, "reward_before": 1
    }  # fmt: skip


async def test_log_probs_that_disagree_pause_the_run_with_the_reason_and_a_restart_knows_it(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.engine.apart = 3.0
    await world.first_step()
    async with playing(world):
        async with world.coordinator() as made:
            decided = await world.decided()
            await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
        assert decided.decision == REJECT and decided.reason.startswith("engine and learner disagree: a KL of")
        async with world.coordinator() as again:
            await settled(again, lambda: again.state.value == coordinator_pb2.RUN_STATE_PAUSED)
            assert again.state.paused_for.startswith("version 1 was rejected by its trial: engine and learner")
            await again.pause(False)
            await settled(again, lambda: again.state.admitting and not again.state.paused_for)


async def test_a_reward_that_falls_is_rejected_and_the_run_goes_on_where_it_may(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    await world.first_step()
    async with playing(world, falls=True), world.coordinator(on_reject="continue") as made:
        decided = await world.decided()
        assert decided.reason == "the reward fell from 1 to 0, by more than reward_drop 0.1"
        assert made.state.admitting
        assert all(slot.min_step == 0 for slot, _ in made.admission.admissible())


async def test_a_resume_that_cannot_help_says_so_at_once(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.engine.apart = 3.0
    await world.first_step()
    async with playing(world), world.coordinator(staleness__max_versions=0) as made:
        await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
        await world.decided()
        assert not made.watch.stall
        await made.pause(False)
        await settled(made, lambda: bool(made.watch.stall))
        assert made.watch.stall.startswith("version 0 is served, all that are newer were rejected")
        explained = await CoordinatorServicer(made).ExplainStall(coordinator_pb2.ExplainStallRequest(), None)
        assert explained.explanation.startswith(made.watch.stall)
        await made.decide(1, PROMOTE, "it is good enough")
        await settled(made, lambda: not made.watch.stall)


async def test_samples_that_come_behind_a_trial_are_not_kept(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    async with played(world) as made:
        world.store.states[1] = (READY, "")
        await settled(made, lambda: not made.following.evaluated)
        late = max(made.tasks.evaluation(1, Timestamp()), key=lambda task: task.row)
        seen = made.following.log.count
        await publish(bus, names, drawn(late, 0, step=1))
        await settled(made, lambda: made.following.log.count > seen)
        assert not made.following.evaluated


async def test_a_rollback_in_the_last_moment_of_a_trial_stands(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.late = True
    await world.first_step()
    async with playing(world), world.coordinator() as made:
        await settled(made, lambda: world.store.refused > 0)
        await made.decide(0, weights_pb2.DECISION_ROLL_BACK, "worse")
        await settled(made, lambda: made.ledger.rolled_back == 0)
        assert 1 not in made.ledger.decisions


async def test_an_engine_that_cannot_take_it_and_one_that_never_does_reject_it(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.error = "FetchFailed: tensor 'a': the checksum of its 8 bytes differs"
    await world.first_step()
    async with playing(world), world.coordinator():
        decided = await world.decided()
    assert decided.reason == f"generation-0 cannot take it: {world.store.error}"


async def test_a_canary_that_is_gone_in_the_middle_is_waited_for_and_a_new_coordinator_goes_on(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """The first coordinator sees no engine hold it, and dies; the next one finds what was played meanwhile."""
    world = world_of(bus, names, folder, tmp_path, chat)
    async with played(world):
        pass
    world.store.held = True
    async with playing(world), world.coordinator():
        decided = await world.decided()
    assert decided.decision == PROMOTE and decided.metrics["samples"] == 4


async def test_what_no_engine_takes_in_time_is_rejected(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.held = False
    await world.first_step()
    async with playing(world), world.coordinator(seconds=1):
        decided = await world.decided()
    assert decided.reason == "no engine took it within 1 s"


async def test_what_weight_sync_decided_before_the_ledger_knew_is_recorded(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """It rejected a version at its commit; or a coordinator died between the store's word and the ledger's."""
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.states[1] = (REJECTED, "not finite: a has 3 values that are NaN or infinite")
    await world.first_step()
    async with world.coordinator() as made:
        decided = await world.decided()
        await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
    assert (decided.decision, decided.reason) == (REJECT, world.store.states[1][1])


async def test_what_a_person_decides_in_the_middle_stands_and_ends_the_trial(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    async with played(world) as made:
        world.store.states[1] = (READY, "")
        decided = await world.decided()
        assert (decided.decision, decided.reason) == (PROMOTE, "it is served") and made.state.admitting
