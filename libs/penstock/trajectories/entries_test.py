"""What lies under a subject is what the subject says, or it is a BadEntry, whatever anybody writes."""

import random
import resource
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.names import RunNames
from penstock.rules.quarantine import BadEntry
from penstock.trajectories import (
    TrajectoryBuilder,
    check_trajectory,
    decode,
    encode,
    failed,
    int32s,
    read_sample,
    read_task,
    refused,
)
from penstock.trajectories.building import header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb

NAMES = RunNames("r")
SUBJECT = NAMES.log_subject("g00000001", 1)
TASK_SUBJECT = NAMES.task_subject("train", "g00000001")


def task() -> pb.GroupTask:
    made = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=4, seed=7)
    made.rollout.task.id, made.rollout.task.source = "rows/1", "a"
    made.rollout.sampling.max_tokens, made.rollout.sampling.top_p = 8, 1
    return made


def sample() -> pb.Trajectory:
    b = TrajectoryBuilder()
    b.context("user", [3, 4])
    b.begin_completion()
    b.drawn([5, 6], [-0.5, -0.25], [pb.VersionSegment(first=0, version=version(1, 3))])
    b.end_completion(pb.FINISH_REASON_STOP)
    t = b.fill(header(task(), 1, "m"))
    t.components.add(name="length", value=1.0, weight=1.0)
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, 1.0
    return t


def test_what_is_read_back_is_what_was_written() -> None:
    assert read_sample(NAMES, SUBJECT, encode(sample())) == sample()
    assert read_task(NAMES, TASK_SUBJECT, task().SerializeToString(), ["a", "b"]) == task()
    lost = failed(task(), 1, "m", pb.Outcome.FAILURE_TIMEOUT, "late")
    assert read_sample(NAMES, SUBJECT, encode(lost)) == lost


@pytest.mark.parametrize(
    "subject",
    [
        NAMES.log_subject("g00000001", 2),
        NAMES.log_subject("g00000002", 1),
        NAMES.log_subject("e00000001-1", 1),
        RunNames("other").log_subject("g00000001", 1),
        *(
            f"penstock.r.log.g00000001{end}"
            for end in ("", ".x", ".01", ".-1", ".1.1", ".99999999999", ".1" + "0" * 5000)
        ),
        "penstock.r.log.x00000001.1",
        "penstock.r.task.train.g00000001",
    ],
)
def test_no_content_is_read_under_anothers_subject(subject: str) -> None:
    with pytest.raises(BadEntry):
        read_sample(NAMES, subject, encode(sample()))


def with_index(t: pb.Trajectory) -> None:
    t.index = t.group_size


def with_step(t: pb.Trajectory) -> None:
    t.version_segments[0].version.step = 2**63


def with_epoch(t: pb.Trajectory) -> None:
    t.version_segments[0].version.epoch = 2**64 - 1


def with_tokens(t: pb.Trajectory) -> None:
    t.tokens = int32s([3, 4, -5, 6])


def with_many_parts(t: pb.Trajectory) -> None:
    for number in range(1000):
        t.components.add(name=f"part {number}", value=0.5)


def with_a_long_name(t: pb.Trajectory) -> None:
    t.components.add(name="x" * 100_000, value=0.5)


@pytest.mark.parametrize("spoil", [with_index, with_step, with_epoch, with_tokens, with_many_parts, with_a_long_name])
def test_a_sample_that_breaks_a_bound_is_bad(spoil: Callable[[pb.Trajectory], None]) -> None:
    t = sample()
    spoil(t)
    with pytest.raises(BadEntry):
        check_trajectory(t)
    with pytest.raises(BadEntry):
        read_sample(NAMES, SUBJECT, encode(t))


@pytest.mark.parametrize("value", [1e308, -1e308, 1e200, 1e10, float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["reward", "value", "weight"])
def test_a_reward_that_a_mean_or_a_variance_cannot_hold_is_bad(value: float, field: str) -> None:
    t = sample()
    setattr(t if field == "reward" else t.components[0], field, value)
    with pytest.raises(BadEntry, match=field):
        check_trajectory(t)


@pytest.mark.parametrize("declared", [True, False])
def test_a_frame_is_unpacked_within_the_limit_whatever_it_declares(declared: bool) -> None:
    size = 3 << 30
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=size if declared else -1)
    zeros = bytes(64 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(size // len(zeros))) + packer.flush()
    assert len(bomb) < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadEntry, match="unpacks to more than"):
        decode(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10, "kB beyond what the test had"


def test_a_frame_that_declares_no_size_is_read() -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    frame = packer.compress(sample().SerializeToString()) + packer.flush()
    assert zstandard.frame_content_size(frame) < 0
    assert decode(frame) == sample()
    with pytest.raises(BadEntry):
        decode(frame[:-4])


@settings(deadline=None)  # the first validation compiles the rules
@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_whatever_is_wrong_with_a_sample_is_a_bad_entry(rng: random.Random, changes: int) -> None:
    raw = bytearray(sample().SerializeToString())
    for _ in range(changes):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    try:
        t = read_sample(NAMES, SUBJECT, zstandard.ZstdCompressor().compress(bytes(raw)))
    except BadEntry:
        return
    check_trajectory(t)
    assert (t.run, t.group, t.index) == ("r", "g00000001", 1)


def test_the_end_of_a_quarantined_sample_has_its_subjects_identity() -> None:
    t = refused(NAMES, "g00000001", 2, "tokens hold a negative id")
    assert (t.group, t.index, t.outcome.failure) == ("g00000001", 2, pb.Outcome.FAILURE_INVALID)
    assert t.outcome.detail == "tokens hold a negative id" and not t.HasField("reward")


def seeds(work: pb.GroupTask) -> None:
    work.seed = 2**64 - 1


def huge(work: pb.GroupTask) -> None:
    work.group_size = 2**32 - 1


def dotted(work: pb.GroupTask) -> None:
    work.group = "g0000.0001"


def foreign(work: pb.GroupTask) -> None:
    work.rollout.task.source = "nowhere"


def deep(work: pb.GroupTask) -> None:
    work.rollout.task.tools_json = "[" * 100_000


def measured(work: pb.GroupTask) -> None:
    work.kind = pb.TASK_KIND_EVAL


def other_run(work: pb.GroupTask) -> None:
    work.run = "other"


def far(work: pb.GroupTask) -> None:
    work.rollout.min_step = 2**63


def timeless(work: pb.GroupTask) -> None:
    work.deadline.seconds = 2**62


@pytest.mark.parametrize("spoil", [seeds, huge, dotted, foreign, deep, measured, other_run, far, timeless])
def test_a_task_that_could_not_be_played_is_bad(spoil: Callable[[pb.GroupTask], None]) -> None:
    work = task()
    spoil(work)
    with pytest.raises(BadEntry):
        read_task(NAMES, TASK_SUBJECT, work.SerializeToString(), ["a", "b"])


@pytest.mark.parametrize(
    "subject", ["penstock.r.task.odd.g00000001", "penstock.r.task.eval.g00000001", "x", TASK_SUBJECT]
)
def test_a_task_is_read_under_its_subject_alone(subject: str) -> None:
    work = task()
    if subject == TASK_SUBJECT:
        work.group = "g00000002"
    with pytest.raises(BadEntry):
        read_task(NAMES, subject, work.SerializeToString())
