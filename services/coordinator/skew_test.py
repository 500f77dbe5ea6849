"""Old and new processes work together: protos only grow, so a rollout of the baseline serves today's coordinator."""

import os
import pathlib

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from penstock.bus import Bus, RunNames, TaskConsumer
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2
from penstock.ledger import Fate
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.testing.run import (
    drawn,
    fold,
    make_coordinator,
    make_recipe,
    play_learner,
    publish,
    running,
    settled,
    told_over,
)

BASELINE = pathlib.Path(os.environ.get("PENSTOCK_PROTO_BASELINE", "proto/baseline.binpb"))
STEPS = 5


def baseline(name: str) -> type[Message]:
    """A message as the committed baseline has it."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes()).file:
        pool.Add(file)
    found: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    return found


def through(old: type[Message], payload: bytes) -> bytes:
    """What is left of a message once somebody who has the old protos has read and written it."""
    read = old.FromString(payload)
    read.DiscardUnknownFields()
    return read.SerializeToString()


async def old_worker(bus: Bus, names: RunNames) -> None:
    """Completes every task at once, for ever, knowing the baseline's fields alone."""
    task_type, sample_type = baseline("penstock.trajectory.v1.GroupTask"), baseline("penstock.trajectory.v1.Trajectory")
    async for task in TaskConsumer(bus, names, "train", ack_wait=5, max_in_flight=16):
        async with task:
            work = pb.GroupTask.FromString(through(task_type, task.payload))
            for index in range(work.group_size):
                t = drawn(work, index, reward=float(index), step=work.rollout.min_step)
                await publish(bus, names, pb.Trajectory.FromString(through(sample_type, t.SerializeToString())))
            await task.done()


async def test_a_rollout_of_the_baseline_serves_todays_coordinator(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    async with running(coordinator.run(), old_worker(bus, names), within=60.0):
        await play_learner(bus, names, STEPS, played=True)
        await settled(coordinator, lambda: coordinator.state.over)
        await told_over(bus, names, "done")
    assert coordinator.state.value == coordinator_pb2.RUN_STATE_DONE
    ledger = await fold(bus, names)
    assert ledger.step == STEPS and not ledger.quarantine.counts
    assert not coordinator.following.quarantine.counts
    assert {g.fate for g in ledger.groups.values()} <= {Fate.TRAINED, Fate.IN_FLIGHT}


def test_the_baseline_reads_what_is_written_today_and_keeps_what_it_knows() -> None:
    record = pb.BatchRecord(step=3, writer_epoch=1)
    record.groups.add(group="g00000000", indices=[0], log_sequences=[1])
    record.schedule.learning_rate = 1.0
    left = pb.BatchRecord.FromString(
        through(baseline("penstock.trajectory.v1.BatchRecord"), record.SerializeToString())
    )
    assert (left.step, left.groups) == (record.step, record.groups)
