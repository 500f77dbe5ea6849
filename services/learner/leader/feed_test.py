"""The feed on a real NATS server: decisions stand in the ledger before they are acted on, and survive restarts."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from penstock.bus import (
    Bus,
    EmbeddedServer,
    RunNames,
    append,
    connect,
    ensure_run,
    last_entry,
    publish_once,
    store_payload,
)
from penstock.trajectories import TrajectoryBuilder, encode, failed
from penstock.trajectories.building import header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources
from services.learner.leader.feed import AnotherLearner, Feed
from services.learner.testing.recipes import recipe_of

NAMES = RunNames("feed-test")
SIZE = 2


@pytest.fixture
async def bus(tmp_path: pathlib.Path) -> AsyncIterator[Bus]:
    async with EmbeddedServer(tmp_path / "nats", tmp_path / "nats.log") as server:
        async with connect(server.url, name="test", monitor_url=server.monitor_url) as opened:
            await ensure_run(opened, NAMES)
            yield opened


@asynccontextmanager
async def feed(
    bus: Bus, *, epoch: int = 1, trained_step: int = 0, max_age: int = 2, drop: bool = False
) -> AsyncIterator[Feed]:
    made = Feed(
        bus,
        NAMES,
        groups_per_step=2,
        min_group_fraction=1.0,
        max_age=max_age,
        sources=Sources({"": AdvantageSamples(recipe_of(algorithm={"filters": {"zero_variance": drop}}))}),
        trained_step=trained_step,
        cursor=0,
        epoch=epoch,
    )
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def admit(bus: Bus, number: int) -> pb.GroupTask:
    task = pb.GroupTask(run=NAMES.run, group=f"g{number:08d}", kind=pb.TASK_KIND_TRAIN, group_size=SIZE)
    task.rollout.task.id = "t"
    task.rollout.sampling.top_p, task.rollout.sampling.max_tokens = 1, 4
    event = pb.LedgerEvent(group=task.group, admitted=pb.Admitted(group_size=SIZE))
    await append(bus, NAMES.ledger_group_subject(task.group), event.SerializeToString(), expected_last_sequence=0)
    return task


async def publish(bus: Bus, t: pb.Trajectory) -> None:
    envelope = await store_payload(bus, NAMES, encode(t))
    await publish_once(bus, NAMES.log_subject(t.group, t.index), envelope)


def sample(task: pb.GroupTask, index: int, reward: float, step: int = 0) -> pb.Trajectory:
    b = TrajectoryBuilder()
    b.context("user", [5, 6])
    b.begin_completion()
    b.drawn([7], [-0.5], [pb.VersionSegment(first=0, version=version(1, step))])
    b.end_completion(pb.FINISH_REASON_STOP)
    t = b.fill(header(task, index, "m"))
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, reward
    return t


async def group(bus: Bus, number: int, rewards: tuple[float, ...] = (0.0, 1.0), step: int = 0) -> None:
    task = await admit(bus, number)
    for i, reward in enumerate(rewards):
        await publish(bus, sample(task, i, reward, step))


async def event_of(bus: Bus, number: int) -> pb.LedgerEvent:
    entry = await last_entry(bus, NAMES.ledger, NAMES.ledger_group_subject(f"g{number:08d}"))
    assert entry is not None
    return pb.LedgerEvent.FromString(entry.payload)


async def test_the_batch_is_in_the_ledger_before_it_is_given(bus: Bus) -> None:
    for n in range(3):
        await group(bus, n)
    async with feed(bus) as f:
        batch = await f.batch(1, within=10)
        assert batch is not None and [g.name for g in batch] == ["g00000000", "g00000001"]
        entry = await last_entry(bus, NAMES.ledger, NAMES.ledger_batch_subject(1))
        assert entry is not None
        record = pb.BatchRecord.FromString(entry.payload)
        assert [g.group for g in record.groups] == ["g00000000", "g00000001"]
        assert await f.batch(2, within=0.3) is None  # one group is not a batch


async def test_a_restarted_learner_trains_the_recorded_batch_again(bus: Bus) -> None:
    for n in range(2):
        await group(bus, n)
    async with feed(bus) as f:
        before = await f.batch(1, within=10)
    async with feed(bus, epoch=2) as f:
        after = await f.batch(1, within=10)
    assert before is not None and after is not None
    assert [[m.sequence for m in g.members] for g in before] == [[m.sequence for m in g.members] for g in after]


async def test_a_second_learner_is_fenced_out(bus: Bus) -> None:
    for n in range(2):
        await group(bus, n)
    async with feed(bus) as one, feed(bus, epoch=2) as two:
        results = await asyncio.gather(one.batch(1, 10), two.batch(1, 10), return_exceptions=True)
        fenced = [r for r in results if isinstance(r, AnotherLearner)]
        # Either both saw the one record (the slower one as a replay), or the slower one was refused.
        assert len(fenced) <= 1 and any(isinstance(r, list) for r in results)


async def test_a_filtered_group_gives_its_slot_back_at_once(bus: Bus) -> None:
    await group(bus, 0, rewards=(1.0, 1.0))
    async with feed(bus, drop=True) as f:
        assert await f.batch(1, within=1.0) is None
        assert (await event_of(bus, 0)).filtered.reason == pb.FILTER_REASON_ZERO_VARIANCE


async def test_a_group_with_too_few_members_has_failed_with_its_reasons(bus: Bus) -> None:
    task = await admit(bus, 0)
    await publish(bus, sample(task, 0, 1.0))
    await publish(bus, failed(task, 1, "m", pb.Outcome.FAILURE_REWARD, "the reward answered NaN"))
    async with feed(bus) as f:
        assert await f.batch(1, within=1.0) is None
    event = await event_of(bus, 0)
    assert event.failed.failures == {"FAILURE_REWARD": 1}
    assert "NaN" in event.failed.detail


async def test_an_overaged_group_expires_instead_of_being_trained(bus: Bus) -> None:
    async with feed(bus, trained_step=0, max_age=0) as f:
        for n in range(2):
            await group(bus, n)
        assert await f.batch(1, within=10) is not None
        f.trained(1)
        for n in range(2, 4):
            await group(bus, n, step=0)
        assert await f.batch(2, within=1.0) is None
    assert (await event_of(bus, 2)).expired.age == 1


async def test_garbage_in_the_log_fails_its_sample_and_nothing_else(bus: Bus) -> None:
    task = await admit(bus, 0)
    envelope = await store_payload(bus, NAMES, b"not a trajectory")
    await publish_once(bus, NAMES.log_subject(task.group, 0), envelope)
    bad = sample(task, 1, 1.0)
    bad.logprobs = b"\x00" * 8 + b"\x00\x00\xc0\x7f"  # NaN
    await publish(bus, bad)
    await group(bus, 1)
    await group(bus, 2)
    async with feed(bus) as f:
        batch = await f.batch(1, within=10)
        assert batch is not None and [g.name for g in batch] == ["g00000001", "g00000002"]
    assert (await event_of(bus, 0)).failed.failures == {"FAILURE_INVALID": 2}


async def test_what_was_measured_of_a_version_stands(bus: Bus) -> None:
    """A learner that trains recorded steps again measures again; its word changes nothing."""
    for loss in (2.0, 3.0):
        async with feed(bus) as f:
            await f.evaluated(pb.EvaluationReport(step=2, samples=1, metrics={"loss": loss}))
            await f.evaluated(pb.EvaluationReport(step=2, samples=1, metrics={"loss": loss}))
    entry = await last_entry(bus, NAMES.ledger, NAMES.ledger_eval_subject(2))
    assert entry is not None and pb.EvaluationReport.FromString(entry.payload).metrics["loss"] == 2.0
