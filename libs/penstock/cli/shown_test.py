"""Waits that are alike are one row; samples are chosen by what they were given."""

import datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.cli.shown import chosen, together
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.diagnostics.v1 import diagnostics_pb2
from penstock.trajectory.v1.trajectory_pb2 import RewardComponent

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def wait(what: str, on: str, ago: float, left: float | None = None) -> diagnostics_pb2.Wait:
    made = diagnostics_pb2.Wait(what=what, on=on, since=at(-ago))
    if left is not None:
        made.deadline.CopyFrom(at(left))
    return made


def at(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(NOW + datetime.timedelta(seconds=seconds))
    return stamp


def test_waits_that_differ_in_a_number_alone_are_one_row() -> None:
    waits = [wait(f"tokens for g{i:08d}", "generation a", i, 60 - i) for i in range(1, 6)]
    rows = together([*waits, wait("batch 3", "rollout", 2), wait("tokens for g00000009", "generation b", 9)], NOW)
    assert [(r.what, r.on, r.count, r.seconds, r.left) for r in rows] == [
        ("tokens for g00000009", "generation b", 1, 9, None),
        ("tokens for …", "generation a", 5, 5, 55),
        ("batch 3", "rollout", 1, 2, None),
    ]


SAMPLES = [
    pb.Sample(index=0, reward=0.0, components=[RewardComponent(name="length", value=3)]),
    pb.Sample(index=1, reward=1.0),
    pb.Sample(index=2),
]


@pytest.mark.parametrize(
    ("where", "indices"),
    [
        ("reward<0.1", [0]),
        ("reward >= 0", [0, 1]),
        ("reward!=0", [1]),
        ("reward==1e0", [1]),
        ("length>2", [0]),
        ("other>0", []),
    ],
)
def test_samples_are_chosen_by_a_number_they_have(where: str, indices: list[int]) -> None:
    assert [s.index for s in chosen(SAMPLES, where)] == indices


@pytest.mark.parametrize("where", ["", "reward", "reward<", "<1", "reward=1", "reward<x", "reward<1<2"])
def test_another_form_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="must have the form|could not convert"):
        chosen(SAMPLES, where)
