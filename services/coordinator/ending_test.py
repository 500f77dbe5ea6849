"""How a run ends, on a real NATS: at its target, by a user, in failures. A script plays workers and learner."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from functools import partial

import pytest

from penstock.bus import (
    Bus,
    RunNames,
    StreamFull,
    append,
    ensure_run,
    publish_once,
    read,
    stream_state,
)
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.learner.v1 import learner_pb2
from penstock.testing.nats.fixtures import SMALL
from penstock.trajectory.v1 import trajectory_pb2
from penstock.weights.v1 import weights_pb2
from services.coordinator.coordinator import Coordinator
from services.coordinator.state.asked import Asked
from services.coordinator.state.peers import Peers
from services.coordinator.testing.run import (
    SIZE,
    STALENESS,
    N,
    fold,
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    release,
    running,
    settled,
    told_over,
    until,
)

STEPS = 5


def _is_over(coordinator: Coordinator) -> bool:
    return coordinator.state.over


async def test_a_run_whose_groups_all_fail_is_given_up_with_the_reason(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder)
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run(), play_learner(bus, names, STEPS, fate=lambda n: "failed")):
        await settled(coordinator, lambda: coordinator.state.over)
        await told_over(bus, names, "failed")
    assert coordinator.state.value == pb.RUN_STATE_FAILED
    assert coordinator.state.reason == "the last 8 groups all failed; the newest: all timed out"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", coordinator.state.reason)
    admitted = len((await fold(bus, names)).groups)
    again = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(again.run()):
        await settled(again, lambda: again.state.over)
        assert again.state.value == pb.RUN_STATE_FAILED
    assert len((await fold(bus, names)).groups) == admitted


async def test_under_a_rollback_groups_wait_and_the_run_is_not_given_up(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """Nothing is admitted that the version which is served may not draw, and what failed for it ends nobody."""
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)

    async def decided(what: weights_pb2.Decision) -> None:
        said = trajectory_pb2.VersionDecision(step=0, decision=what)
        await append(bus, names.ledger_version_subject(0), said.SerializeToString(), expected_last_sequence=None)
        await settled(coordinator, lambda: 0 in coordinator.ledger.decisions)

    async with running(coordinator.run()):
        await settled(coordinator, lambda: bool(coordinator.ledger.groups))
        await decided(weights_pb2.DECISION_ROLL_BACK)
        await settled(coordinator, lambda: coordinator.ledger.rolled_back == 0)
        for name in list(coordinator.ledger.in_flight):
            await release(bus, names, name, "failed")
        await settled(coordinator, lambda: len(coordinator.ledger.groups) > 2 * N)
        assert {g.admitted.min_step for g in coordinator.ledger.in_flight.values()} <= {0}
        assert not coordinator.state.over
        await decided(weights_pb2.DECISION_PROMOTE)
        await settled(coordinator, lambda: coordinator.ledger.rolled_back < 0)


async def test_a_bad_row_behind_those_that_were_tried_ends_the_run_with_its_place(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n' * 3 + '{"prompt": null}\n')
    recipe = make_recipe(folder, data__train=str(rows), data__check=3, data__shuffle="false")
    for _ in range(2):  # and again after a restart
        coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
        async with running(coordinator.run()):
            await settled(coordinator, partial(_is_over, coordinator))
        assert coordinator.state.value == pb.RUN_STATE_FAILED
        assert f"{rows}, line 4: data.prompt" in coordinator.state.reason
        assert json.loads((tmp_path / "summary.json").read_text())["reason"] == coordinator.state.reason


async def test_a_stop_ends_admission_and_the_run(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    async with running(coordinator.run()):
        await until(bus, names, lambda ledger: len(ledger.groups) == (STALENESS + 1) * N)
        await coordinator.stop("enough")
        await coordinator.pause(True)
        await settled(coordinator, lambda: coordinator.state.over)
    assert (coordinator.state.value, coordinator.state.reason) == (pb.RUN_STATE_STOPPED, "enough")
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "stopped"


async def test_a_stop_is_known_to_the_coordinator_that_comes_after(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """The one that heard it is killed at once; the learner has not heard of it yet."""
    recipe, told = make_recipe(folder), list[str]()

    class Learner(Peers):
        async def learner(self) -> learner_pb2.GetStatusResponse | None:
            return None if len(told) > 1 else learner_pb2.GetStatusResponse()

        async def drain_learner(self, *, finish: bool = False) -> None:
            told.append("drain")

    first = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(first.run()):
        await until(bus, names, lambda ledger: len(ledger.groups) == (STALENESS + 1) * N)
        await Asked(bus, names).stop("enough")  # and dies before it does more
    second = make_coordinator(bus, names, recipe, tmp_path, chat, Learner({}, {}))
    async with running(second.run()):
        await settled(second, lambda: second.state.over)
    assert (second.state.value, second.state.reason) == (pb.RUN_STATE_STOPPED, "enough") and len(told) > 1
    await second.pause(False)  # who resumes it wants it to go on
    third = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(third.run()):
        await settled(third, lambda: third.state.admitting)


async def test_a_stop_while_evaluating_waits_for_the_evaluation_and_stops(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder, data__eval=str(folder / "eval.jsonl"), evaluation__every=2)
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run()):
        async with contextlib.aclosing(read(bus, names.tasks)) as entries:
            async for entry in entries:
                if ".eval." in entry.subject:
                    break
        await coordinator.stop("enough")
        assert coordinator.state.value == pb.RUN_STATE_STOPPING
        async with running(play_worker(bus, names, "eval")):
            await settled(coordinator, lambda: coordinator.state.over)
    assert (coordinator.state.value, coordinator.state.reason) == (pb.RUN_STATE_STOPPED, "enough")
    assert sorted((await fold(bus, names)).evaluations) == [0]


async def test_a_run_whose_log_is_full_says_so_and_goes_on_once_there_is_room(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(
        folder, limits__log_bytes=SMALL.log_bytes, limits__group_deadline_seconds=0.1, limits__stall_seconds=1
    )
    with pytest.raises(StreamFull):
        for number in itertools.count():
            await publish_once(bus, names.log_subject(f"x{number}", 0), bytes(1 << 20), on_full="raise")
    left = SMALL.log_bytes - (await stream_state(bus, names.log)).bytes
    await publish_once(bus, names.log_subject("y", 0), bytes(left - 200), on_full="raise")
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run(), within=60):
        await settled(coordinator, lambda: bool(coordinator.watch.scarce))
        await settled(coordinator, lambda: coordinator.state.over, within=50)
    assert coordinator.state.value == pb.RUN_STATE_FAILED
    assert "the log of samples has no room: limits.log_bytes is" in coordinator.state.reason
    await ensure_run(bus, names, dataclasses.replace(SMALL, log_bytes=2 * SMALL.log_bytes))
    again = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(again.run()):
        await settled(again, lambda: again.log.count >= SIZE)
    assert not again.state.over


async def test_a_run_that_reaches_its_target_is_done_early_and_stays_done(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """The played evaluation gives a mean reward of 0.5."""
    recipe = make_recipe(
        folder, data__eval=str(folder / "eval.jsonl"), evaluation__every=2, evaluation__target_reward=0.5
    )
    for _ in range(2):  # and once more after a restart
        coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
        async with running(coordinator.run(), play_worker(bus, names, "train"), play_worker(bus, names, "eval")):
            await settled(coordinator, partial(_is_over, coordinator))
        assert coordinator.state.value == pb.RUN_STATE_DONE
        assert coordinator.state.reason == "evaluation of version 0: reward 0.5 reached the target 0.5"
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "done"


async def test_a_run_whose_learner_measures_rows_waits_for_the_last_and_ends_early_at_its_target(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """Held-out loss 2 at version 0, 1 at version 2: played by the test, which is the learner here."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "target": "b"}\n')
    sft = {"data__train": rows, "data__eval": rows, "environment": "null", "algorithm__name": "sft"}
    recipe = make_recipe(folder, **sft, evaluation__every=2, evaluation__target_loss=1.0)

    async def measured(step: int, loss: float) -> None:
        report = trajectory_pb2.EvaluationReport(step=step, samples=1, metrics={"loss": loss})
        await append(bus, names.ledger_eval_subject(step), report.SerializeToString(), expected_last_sequence=0)

    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run(), play_worker(bus, names, "train")):
        await measured(0, 2.0)
        await play_learner(bus, names, 2)
        assert (coordinator.state.over, coordinator.state.reason) == (False, "")
        await measured(2, 1.0)
        await settled(coordinator, lambda: coordinator.state.over)
    assert coordinator.state.value == pb.RUN_STATE_DONE
    assert coordinator.state.reason == "evaluation of version 2: loss 1 reached the target 1"
    assert [e["loss"] for e in json.loads((tmp_path / "summary.json").read_text())["eval"]] == [2.0, 1.0]


async def test_a_measurement_without_a_scored_sample_fails(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(
        folder, mode="evaluate", data__eval=str(folder / "eval.jsonl"), limits__group_deadline_seconds=0.5
    )
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run()):
        await settled(coordinator, lambda: coordinator.state.over)
    assert coordinator.state.value == pb.RUN_STATE_FAILED and "no sample was scored" in coordinator.state.reason
