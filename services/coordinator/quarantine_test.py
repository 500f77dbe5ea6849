"""Whatever lies in a run's streams, a coordinator counts it, shows it, ends the group it stood for, and goes on; so
does the next one, which meets it again."""

import pathlib

import pytest

from penstock import rpc
from penstock.bus import Bus, RunNames, append, last_entry, load_payload, publish_once, store_payload
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.telemetry import metrics
from penstock.trajectories import read_sample
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.coordinator import Coordinator
from services.coordinator.server import CoordinatorServicer
from services.coordinator.testing.run import (
    SIZE,
    STALENESS,
    N,
    fold,
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    running,
    served,
    until,
)

STEPS, BUDGET = 5, (STALENESS + 1) * N


async def settled(coordinator: Coordinator) -> None:
    await coordinator.following.until(lambda: coordinator.state.over)


async def ends(bus: Bus, names: RunNames, group: str) -> list[trajectory_pb2.Trajectory]:
    found = []
    for index in range(SIZE):
        entry = await last_entry(bus, names.log, names.log_subject(group, index))
        assert entry is not None
        found.append(read_sample(names, entry.subject, await load_payload(bus, names, entry.payload)))
    return found


def forged(group: str, **admitted: object) -> tuple[str, bytes]:
    event = trajectory_pb2.LedgerEvent(group=group, writer="nobody")
    event.admitted.CopyFrom(trajectory_pb2.Admitted(**admitted))  # type: ignore[arg-type]
    event.admitted.deadline.FromSeconds(2**33)
    return group, event.SerializeToString()


async def test_a_run_with_garbage_in_every_stream_is_done_and_says_so(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder, data__eval=str(folder / "eval.jsonl"))
    for subject in (names.ledger_group_subject("g00000000"), names.ledger_eval_subject(0), "penstock.r1.ledger.x"):
        await append(bus, subject, b"\xff garbage", expected_last_sequence=None)
    await append(bus, names.ledger_batch_subject(2**63), b"", expected_last_sequence=None)
    for subject in ("penstock.r1.log.odd", names.log_subject("e00000000-0", 1), names.log_subject("g00000007", 99)):
        await publish_once(bus, subject, await store_payload(bus, names, b"\x28\xb5\x2f\xfd garbage"))
    work = [play_worker(bus, names, kind) for kind in ("train", "eval")]
    async with running(*work, within=60):
        first = make_coordinator(bus, names, recipe, tmp_path, chat)
        async with running(first.run()):
            await play_learner(bus, names, 2)
        second = make_coordinator(bus, names, recipe, tmp_path, chat)
        async with running(second.run(), play_learner(bus, names, STEPS)):
            await settled(second)
            async with served(
                coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server, CoordinatorServicer(second)
            ) as channel:
                stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
                run = (await rpc.call(stub.GetRun(pb.GetRunRequest()))).run
                with pytest.raises(rpc.RpcError, match="quarantined"):
                    await rpc.call(stub.GetSample(pb.GetSampleRequest(group="g00000007", index=99)))
    assert run.metrics[metrics.ENTRIES_QUARANTINED] >= 7 and second.summary()["quarantined"] >= 7
    assert second.summary()["status"] == "done"
    ledger = await fold(bus, names)
    assert list(ledger.reports) == list(range(1, STEPS + 1))
    assert ledger.evaluations[0].metrics["failed"] == 1.0, "the garbage under a sample's subject is its end"
    assert {q.subject for q in ledger.quarantine.listed} >= {"penstock.r1.ledger.x"}


async def test_a_group_whose_task_is_not_its_own_ends_as_invalid(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    await publish_once(bus, names.task_subject("train", "g00000001"), b"\xff")
    other = coordinator.tasks.training(
        2, coordinator.admission.admissible()[2][1], 0, trajectory_pb2.Admitted().deadline
    )
    other.group_size = 2 * SIZE
    await publish_once(bus, names.task_subject("train", other.group), other.SerializeToString())
    async with running(coordinator.run()):
        await until(bus, names, lambda ledger: len(ledger.groups) == BUDGET)
    for group in ("g00000001", other.group):
        assert {t.outcome.failure for t in await ends(bus, names, group)} == {trajectory_pb2.Outcome.FAILURE_INVALID}
    assert coordinator.quarantined == 2


async def test_an_admission_that_nobody_can_play_ends_as_invalid(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """Of a source that the recipe does not have, and of a row beyond its data."""
    for name, payload in (
        forged("g00000000", group_size=SIZE, source="nowhere"),
        forged("g00000003", group_size=SIZE, source="sort_characters", row=2**40),
    ):
        await append(bus, names.ledger_group_subject(name), payload, expected_last_sequence=0)
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    async with running(coordinator.run()):
        ledger = await until(bus, names, lambda ledger: len(ledger.groups) == BUDGET)
    assert sorted(ledger.groups) == [f"g{number:08d}" for number in range(BUDGET)]
    for group in ("g00000000", "g00000003"):
        assert {t.outcome.failure for t in await ends(bus, names, group)} == {trajectory_pb2.Outcome.FAILURE_INVALID}
