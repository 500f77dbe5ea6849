"""A coordinator that forgets, and begins from snapshots, shows and decides what one does that folded everything."""

import asyncio
import contextlib
import json
import pathlib
import random
from functools import partial

import pytest

from penstock import rpc
from penstock.bus import Bucket, Bus, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.learner.v1 import learner_pb2
from penstock.ledger import Fate
from penstock.showing.history import History
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.coordinator import Coordinator
from services.coordinator.server import CoordinatorServicer
from services.coordinator.state import snapshots
from services.coordinator.testing.run import (
    fold,
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    release,
    running,
    served,
    settled,
    until,
)

STEPS = 8
FATES = {1: "filtered", 5: "failed", 8: "failed"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "KEPT", 1)


def a_life(bus: Bus, names: RunNames, folder: pathlib.Path, files: pathlib.Path, chat: ChatTokenizer) -> Coordinator:
    """A coordinator that takes a snapshot every seven entries, and whose learner has a checkpoint of each step."""
    c = make_coordinator(bus, names, make_recipe(folder, algorithm__steps=STEPS), files, chat)

    async def learner() -> learner_pb2.GetStatusResponse:
        return learner_pb2.GetStatusResponse(checkpoint_step=c.ledger.step)

    c.peers.learner = learner  # type: ignore[method-assign]
    c._snapshots = snapshots.Snapshots(bus, names, c.following, c.peers, c._folds, lambda: c.recorder.written, every=7)
    return c


def _has_moved(coordinator: Coordinator, sequence: int) -> bool:
    return coordinator.ledger.sequence >= sequence


async def test_killed_at_any_moment_it_goes_on_from_a_snapshot_and_nothing_is_different(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    forgotten = 0

    async def lives() -> None:
        nonlocal forgotten
        rng = random.Random(5)
        while True:
            life = a_life(bus, names, folder, tmp_path, chat)
            working = asyncio.create_task(life.run())
            await asyncio.wait({working}, timeout=rng.uniform(0.02, 0.1))  # killed early in its life, or later
            moves = life.ledger.sequence + rng.randint(0, 12)
            with contextlib.suppress(TimeoutError):
                await settled(life, partial(_has_moved, life, moves), within=10)
            forgotten = max(forgotten, life.ledger.forgotten)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async with running(lives(), play_worker(bus, names, "train"), within=60):
        await play_learner(bus, names, STEPS, fate=lambda n: FATES.get(n, "trained"))
        await until(bus, names, lambda ledger: ledger.step == STEPS)
    assert forgotten > 0
    last, whole = a_life(bus, names, folder, tmp_path, chat), await fold(bus, names)
    await last.restore()
    assert last.ledger.forgotten > 0 and not last.ledger.groups.keys() >= whole.groups.keys()
    assert (last.ledger.samples, last.ledger.step) == (whole.samples, whole.step)
    assert list(last.ledger.in_flight) == list(whole.in_flight)
    kept, total = last.summary(), whole.samples
    for why in ("files that lack what it has forgotten", "damaged"):
        if why == "damaged":
            await Bucket(bus, names).put(names.snapshot_key, why.encode())
        (tmp_path / why).mkdir()
        other = a_life(bus, names, folder, tmp_path / why, chat)
        await other.restore()
        assert other.ledger.forgotten == 0 and other.ledger.samples == total, why
        assert kept == other.summary()
        lines = (tmp_path / why / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


async def test_what_is_forgotten_is_read_from_the_stream(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    c = a_life(bus, names, folder, tmp_path, chat)
    async with running(c.run(), play_worker(bus, names, "train"), within=60):
        await play_learner(bus, names, STEPS, fate=lambda n: FATES.get(n, "trained"))
        await c.following.until(lambda: c.state.over)
        # What others say later, of groups and steps that are decided, is quarantined and stays so.
        await release(bus, names, "g00000000", "filtered")
        later = trajectory_pb2.BatchRecord(step=1)
        later.groups.add(group="g00000003", indices=[0], log_sequences=[1])
        await append(bus, names.ledger_batch_subject(1), later.SerializeToString(), expected_last_sequence=None)
        await c.following.current()
        await c._snapshots.take()
    assert c.ledger.forgotten == STEPS - 1
    whole, history = await fold(bus, names), History(bus, names, c.ledger)
    assert {name: (await history.group(name)) for name in whole.groups} | whole.groups == whole.groups
    for name, group in whole.groups.items():
        found = await history.group(name)
        assert found is not None and (found.fate, found.detail) == (group.fate, group.detail), name
        assert group.fate is not Fate.TRAINED or found.step == group.step, name
    assert await history.group("g99999999") is None and await history.group("e00000001-0") is None
    for step in range(STEPS + 2):
        assert await history.batch(step) == whole.batches.get(step)
    for after in range(STEPS + 1):
        for count in (1, 3, 100):
            said = await history.reports(after, count)
            assert [r.step for r in said] == list(range(after + 1, STEPS + 1))[:count]
    adder = coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server
    async with served(adder, CoordinatorServicer(c)) as channel:
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        first = await rpc.call(stub.ListSteps(pb.ListStepsRequest(page_size=2)))
        assert [s.step for s in first.steps] == [1, 2] and first.more
        lineage = await rpc.call(stub.GetLineage(pb.GetLineageRequest(sample="g00000000/0")))
        assert (lineage.fate, lineage.step) == ("TRAINED", 1)
        failed = await rpc.call(stub.GetLineage(pb.GetLineageRequest(sample="g00000005/0")))
        assert (failed.fate, failed.detail) == ("FAILED", "all timed out")


async def test_without_a_checkpoint_nothing_is_forgotten(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """A learner that starts again begins at the first step."""
    c = make_coordinator(bus, names, make_recipe(folder, algorithm__steps=3), tmp_path, chat)
    async with running(c.run(), play_worker(bus, names, "train")):
        await play_learner(bus, names, 3)
        await c.following.until(lambda: c.state.over)
        await c._snapshots.take()
    assert c.ledger.forgotten == 0 and len(c.ledger.batches) == 3
