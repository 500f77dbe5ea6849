"""A run of small groups on a real NATS server: its samples, and who follows, judges and records them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.bus import Bucket, Bus, RunNames, append, last_entry, publish_once, store_payload
from penstock.trajectories import TrajectoryBuilder, encode
from penstock.trajectories.building import header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources
from services.learner.interface.policy import Takes
from services.learner.leader.epochs import Epoch
from services.learner.leader.follow import Following
from services.learner.leader.judge import Judge
from services.learner.leader.record import Batches
from services.learner.testing.recipes import recipe_of

NAMES = RunNames("feed-test")
SIZE = 2
SCHEDULE = pb.Schedule(learning_rate=1e-3, schedule="constant", steps=100)
TAKES = Takes(vocabulary=100, longest=50)


@asynccontextmanager
async def leader(
    bus: Bus,
    *,
    epoch: int = 1,
    trained_step: int = 0,
    max_age: int = 2,
    drop: bool = False,
    schedule: pb.Schedule = SCHEDULE,
    trial: bool = False,
) -> AsyncIterator[Batches]:
    sources = Sources({"": AdvantageSamples(recipe_of(algorithm={"filters": {"zero_variance": drop}}))})
    following = Following(bus, NAMES, groups_per_step=2, trained_step=trained_step, log_cursor=0, takes=TAKES)
    number = Epoch(Bucket(bus, NAMES), epoch)
    judge = Judge(bus, NAMES, following, sources, min_fraction=1.0, epoch=number, trial=trial)
    running = [asyncio.create_task(work()) for work in (following.run, judge.run)]
    try:
        yield Batches(bus, NAMES, following, judge, max_age, number, schedule)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


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
