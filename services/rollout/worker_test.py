"""When a task is acknowledged every sample of its group is in the log exactly once, whoever is killed on the way."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from penstock.bus import (
    Bus,
    BusTimeout,
    RunNames,
    TaskConsumer,
    load_payload,
    publish_once,
    read,
    store_payload,
    stream_state,
)
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.trajectories import TrajectoryBuilder, check_trajectory, decode, encode
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.worker import Play, Worker

SIZE = 4


def task(number: int, seconds: float = 60.0) -> pb.GroupTask:
    made = pb.GroupTask(run="r1", group=f"g{number:08d}", kind=pb.TASK_KIND_TRAIN, group_size=SIZE)
    made.rollout.task.id, made.rollout.task.source = "train/0", "train"
    made.rollout.sampling.temperature = made.rollout.sampling.top_p = 1.0
    made.rollout.sampling.max_tokens = 8
    made.deadline.FromNanoseconds(time.time_ns() + int(seconds * 1e9))
    return made


def drawn(work: pb.GroupTask, index: int, reward: float = 1.0) -> pb.Trajectory:
    builder = TrajectoryBuilder()
    builder.context("user", [3, 6])
    builder.begin_completion()
    builder.drawn([7, 2], [-0.1, -0.2], [pb.VersionSegment(version=PolicyVersion(step=1))])
    builder.end_completion(pb.FINISH_REASON_STOP)
    t = builder.fill(header(work, index, "model"))
    t.reward, t.outcome.status = reward, pb.Outcome.STATUS_COMPLETED
    return t


async def offer(bus: Bus, names: RunNames, *tasks: pb.GroupTask) -> None:
    for each in tasks:
        await publish_once(bus, names.task_subject("train", each.group), each.SerializeToString())


def consumer(bus: Bus, names: RunNames, max_deliver: int = 5) -> TaskConsumer:
    return TaskConsumer(bus, names, "train", ack_wait=1.0, max_deliver=max_deliver, max_in_flight=4, retry_delay=0.05)


@contextlib.asynccontextmanager
async def working(bus: Bus, names: RunNames, play: Play, max_deliver: int = 5) -> AsyncIterator["asyncio.Task[None]"]:
    worker = Worker(bus, names, "model", play)
    running = asyncio.create_task(worker.run(consumer(bus, names, max_deliver)))
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def all_done(bus: Bus, names: RunNames, within: float = 30.0) -> None:
    """Until no task is pending or held."""
    looking = consumer(bus, names)
    await looking.ensure()
    async with asyncio.timeout(within):
        while ((backlog := await looking.backlog()).pending, backlog.ack_pending) != (0, 0):
            await asyncio.sleep(0.01)  # the server announces no acknowledgements


async def log(bus: Bus, names: RunNames) -> list[pb.Trajectory]:
    return [decode(await load_payload(bus, names, e.payload)) async for e in read(bus, names.log, live=False)]


async def test_a_task_is_acknowledged_with_its_whole_group_in_the_log(bus: Bus, names: RunNames) -> None:
    async def play(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        assert 50 < until - time.monotonic() < 61
        return drawn(work, index, reward=index)

    await offer(bus, names, task(0), task(1))
    async with working(bus, names, play):
        await all_done(bus, names)
    found = await log(bus, names)
    assert sorted((t.group, t.index, t.reward) for t in found) == [
        (f"g{g:08d}", i, float(i)) for g in range(2) for i in range(SIZE)
    ]


async def test_a_redelivery_plays_only_what_is_missing(bus: Bus, names: RunNames) -> None:
    """The first worker dies after two of four samples."""
    played: Counter[int] = Counter()
    two_ended = asyncio.Event()

    async def half(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        played[index] += 1
        if index >= 2:
            await asyncio.Event().wait()
        return drawn(work, index)

    async def rest(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        played[index] += 1
        return drawn(work, index, reward=0.5)

    async def watch() -> None:
        entries = read(bus, names.log)
        async with contextlib.aclosing(entries):
            await anext(entries)
            await anext(entries)
        two_ended.set()

    await offer(bus, names, task(0))
    watching = asyncio.create_task(watch())
    async with working(bus, names, half):
        await asyncio.wait_for(two_ended.wait(), 10)
    await watching
    async with working(bus, names, rest):
        await all_done(bus, names)
    assert played == Counter({0: 1, 1: 1, 2: 2, 3: 2})
    assert sorted((t.index, t.reward) for t in await log(bus, names)) == [(0, 1.0), (1, 1.0), (2, 0.5), (3, 0.5)]


async def test_a_task_that_kills_every_worker_ends_as_failed(bus: Bus, names: RunNames) -> None:
    """Each life plays one sample more and then dies; after the last delivery the rest is ended without being run."""
    plays = 0

    async def poison(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        nonlocal plays
        plays += 1
        if index == 0:
            return drawn(work, index)
        raise SystemError("segmentation fault")

    await offer(bus, names, task(0))

    async def lives() -> None:
        while True:
            async with working(bus, names, poison, max_deliver=2) as running:
                await asyncio.wait({running})

    living = asyncio.create_task(lives())
    await all_done(bus, names)
    living.cancel()
    await asyncio.gather(living, return_exceptions=True)
    found = {t.index: t for t in await log(bus, names)}
    assert sorted(found) == list(range(SIZE)) and plays <= 2 * SIZE
    for index in range(1, SIZE):
        check_trajectory(found[index])
        assert found[index].outcome.status == pb.Outcome.STATUS_FAILED and not found[index].HasField("reward")
        assert found[index].outcome.detail == "every worker that ran this task died"


async def test_every_sample_is_in_the_log_exactly_once_whoever_is_killed(bus: Bus, names: RunNames) -> None:
    groups, chance = 12, random.Random(11)

    async def play(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        await asyncio.sleep(chance.random() * 0.05)  # the episode
        return drawn(work, index, reward=chance.random())

    async def mortal() -> None:
        while True:
            async with working(bus, names, play, max_deliver=1000) as running:
                await asyncio.wait({running}, timeout=chance.uniform(0.05, 0.3))

    await offer(bus, names, *(task(n) for n in range(groups)))
    workers = [asyncio.create_task(mortal()) for _ in range(3)]
    await all_done(bus, names)
    for each in workers:
        each.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    ends = Counter((t.group, t.index) for t in await log(bus, names))
    assert set(ends.values()) == {1} and len(ends) == groups * SIZE
    assert (await stream_state(bus, names.log)).messages == groups * SIZE


async def test_what_another_worker_published_first_stays(bus: Bus, names: RunNames) -> None:
    work = task(0)
    envelope = await store_payload(bus, names, encode(drawn(work, 1, reward=0.25)))
    await publish_once(bus, names.log_subject(work.group, 1), envelope)

    async def play(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        return drawn(work, index, reward=0.75)

    await offer(bus, names, work)
    async with working(bus, names, play):
        await all_done(bus, names)
    assert [t.reward for t in sorted(await log(bus, names), key=lambda t: t.index)] == [0.75, 0.25, 0.75, 0.75]


async def test_trouble_with_nats_gives_the_task_back_and_the_worker_lives(bus: Bus, names: RunNames) -> None:
    troubled = True

    async def play(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        nonlocal troubled
        if troubled and index == 3:
            troubled = False
            raise BusTimeout("publish", 1.0)
        return drawn(work, index)

    await offer(bus, names, task(0))
    async with working(bus, names, play) as running:
        await all_done(bus, names)
        assert not running.done()
    assert len(await log(bus, names)) == SIZE


def odd_source(work: pb.GroupTask) -> None:
    work.rollout.task.source = "nowhere"


def last_seed(work: pb.GroupTask) -> None:
    work.seed = 2**64 - 1


def endless(work: pb.GroupTask) -> None:
    work.group_size = 2**32 - 1


def dotted(work: pb.GroupTask) -> None:
    work.group = "g.00000000"


@pytest.mark.parametrize("spoil", [None, odd_source, last_seed, endless, dotted])
async def test_a_task_that_nobody_can_play_is_set_aside_and_the_worker_goes_on(
    bus: Bus, names: RunNames, spoil: Callable[[pb.GroupTask], None] | None
) -> None:
    played = set[str]()

    async def play(work: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        played.add(work.group)
        return drawn(work, index)

    bad = task(0)
    if spoil is not None:
        spoil(bad)
    payload = b"\xff\xff" if spoil is None else bad.SerializeToString()
    await publish_once(bus, names.task_subject("train", "g00000000"), payload)
    await offer(bus, names, task(1))
    worker = Worker(bus, names, "model", play, ["train"])
    running = asyncio.create_task(worker.run(consumer(bus, names)))
    await all_done(bus, names)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert played == {"g00000001"} == {t.group for t in await log(bus, names)}
    assert [(q.stream, q.sequence) for q in worker.quarantine.listed] == [("task", 1)]
