"""Rows of routes: packed and unpacked, refused where no router chose them, kept where they were recorded."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.trajectories import (
    RouteShape,
    TrajectoryBuilder,
    TrajectoryError,
    check_trajectory,
    decode,
    encode,
    without_excess,
)
from penstock.trajectories.branches import fill, merged
from penstock.trajectories.building import header, version
from penstock.trajectories.routes import Rows, packed, unpacked
from penstock.trajectory.v1 import trajectory_pb2 as pb

TASK = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=4, seed=7)
SHAPES = [RouteShape(3, 2, 8), RouteShape(1, 1, 1), RouteShape(2, 8, 255), RouteShape(2, 3, 256), RouteShape(1, 4, 4)]
SMALL = SHAPES[0]


def rows_of(shape: RouteShape, count: int, seed: int = 0, unknown: float = 0.0) -> Rows:
    """Rows that routers may have chosen."""
    rng = np.random.default_rng(seed)
    found = shape.unknown_rows(count)
    for at in np.flatnonzero(rng.random(count) >= unknown):
        found[at] = np.sort(rng.random((shape.layers, shape.experts)).argsort(-1)[:, : shape.top], -1)
    return found


@given(st.sampled_from(SHAPES), st.integers(0, 20), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_what_is_packed_is_unpacked_again(shape: RouteShape, count: int, seed: int, unknown: float) -> None:
    rows = rows_of(shape, count, seed, unknown)
    again = unpacked(pb.Routes.FromString(packed(shape, rows).SerializeToString()))
    assert again.dtype == shape.dtype and np.array_equal(again, rows)


def packed_as(change: Callable[[Rows], None]) -> pb.Routes:
    rows = rows_of(SMALL, 6)
    change(rows)
    return packed(SMALL, rows)


def repeated(rows: Rows) -> None:
    rows[2, 1] = [5, 5]


def falling(rows: Rows) -> None:
    rows[2, 1] = [5, 3]


def too_large(rows: Rows) -> None:
    rows[2, 1] = [3, 8]


def half_known(rows: Rows) -> None:
    rows[2, 1] = 255


def unknown_and_named(rows: Rows) -> None:
    rows[2] = [254, 255]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (repeated, "row 2 names an expert twice"),
        (falling, "row 2 names an expert beyond 7, the last"),
        (too_large, "row 2 names an expert beyond 7, the last"),
        (half_known, "row 2 is unknown in some layers alone"),
        (unknown_and_named, "row 2 names an expert beyond 7"),
    ],
)
def test_rows_that_no_router_chose_are_refused_with_the_row(change: Callable[[Rows], None], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        unpacked(packed_as(change))
    t = routed_sample()
    t.routes.CopyFrom(packed_as(change))
    t.routes.count = 6
    with pytest.raises(TrajectoryError, match=f"routes: {word}"):
        check_trajectory(t)


@given(st.binary(max_size=40), st.integers(0, 6), st.integers(1, 300))
def test_no_bytes_are_anything_but_rows_or_refused(gaps: bytes, count: int, experts: int) -> None:
    routes = pb.Routes(count=count, layers=1, top=2, experts=experts, gaps=gaps)
    try:
        rows = unpacked(routes)
    except ValueError:
        return
    shape = RouteShape(1, 2, experts)
    unknown = (rows == shape.unknown).all((1, 2))
    assert (unknown | ((rows[..., 0] < rows[..., 1]) & (rows[..., 1] < experts)).all(1)).all()
    assert packed(shape, rows) == routes, "one way to say it"


@pytest.mark.parametrize("empty", ["layers", "top", "experts"])
def test_rows_of_nothing_are_refused(empty: str) -> None:
    routes = pb.Routes(count=3, layers=1, top=1, experts=8)
    routes.ClearField(empty)
    with pytest.raises(ValueError):
        unpacked(routes)


def builder_of(prompt: int, drawn: int, rows: bool = True) -> TrajectoryBuilder:
    b = TrajectoryBuilder(wants_routes=True)
    b.context("user", list(range(prompt)))
    b.begin_completion()
    b.drawn(list(range(drawn)), [-0.5] * drawn, [pb.VersionSegment(first=0, version=version(1, 3))])
    if rows:
        b.routed(packed(SMALL, rows_of(SMALL, prompt + drawn - 1)))
    b.end_completion(pb.FINISH_REASON_STOP)
    return b


def routed_sample(*more: TrajectoryBuilder) -> pb.Trajectory:
    t = fill(header(TASK, 1, "m"), merged([builder_of(3, 5), *more]))
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, 1.0
    return t


def test_a_sample_with_routes_survives_the_wire_and_one_without_has_no_field() -> None:
    branch = builder_of(3, 5).given(4)
    branch.context("tool", [7, 7])
    branch.begin_completion()
    branch.drawn([9], [-1.0], [pb.VersionSegment(first=0, version=version(1, 3))])
    branch.end_completion(pb.FINISH_REASON_STOP)
    t = decode(encode(routed_sample(branch)))
    check_trajectory(t)
    assert t.routes.count == 7 and np.array_equal(unpacked(t.routes), rows_of(SMALL, 7))
    dense = builder_of(3, 5, rows=False).fill(header(TASK, 1, "m"))
    assert not dense.HasField("routes")


@pytest.mark.parametrize(("first", "count"), [(1, 6), (0, 8), (0, 9)])
def test_rows_at_another_place_than_a_samples_are_refused(first: int, count: int) -> None:
    t = routed_sample()
    t.routes.CopyFrom(packed(SMALL, rows_of(SMALL, count), first))
    with pytest.raises(TrajectoryError, match=r"routes has \d+ rows from"):
        check_trajectory(t)
    t.routes.CopyFrom(packed(SMALL, rows_of(SMALL, 4)))
    check_trajectory(t)  # fewer: the others are routed anew
    t.routes.gaps = t.routes.gaps[:-1]
    with pytest.raises(TrajectoryError, match="gaps must hold layers x top x count"):
        check_trajectory(t)


def test_too_large_a_sample_goes_without_its_routes() -> None:
    t, branch = routed_sample(), builder_of(2, 4)
    branch.fill(t.branches.add())
    without = pb.Trajectory()
    without.CopyFrom(t)
    for each in (without, *without.branches):
        each.ClearField("routes")
    size = without.ByteSize()
    assert not without_excess(t, t.ByteSize()) and t.HasField("routes")
    assert without_excess(t, t.ByteSize() - 1) and t == without
    assert not without_excess(t, size - 1), "what is too large anyway is left to others"


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_what_was_recorded_stays_where_it_was_recorded(length: int, seed: int) -> None:
    """Rows come in any order, twice, beyond the tokens, and are asked for from the first that is lacking."""
    rng, truth = random.Random(seed), rows_of(SMALL, 40, seed)
    b, told = TrajectoryBuilder(wants_routes=True), np.zeros(40, bool)
    b.context("user", list(range(length)))
    b.begin_completion()
    b.drawn([1], [-0.5], [pb.VersionSegment(first=0, version=version(1, 3))])
    for _ in range(8):
        b.context("tool", list(range(rng.randint(0, 2))))
        first, count = rng.randint(0, 12), rng.randint(1, 8)
        other = truth.copy()
        other[told] = rows_of(SMALL, 40, seed + 1)[told]  # whoever tells a row again may have routed it otherwise
        b.routed(packed(SMALL, other[first : first + count], first))
        told[first : min(first + count, len(b.tokens) - 1)] = True
        b = b.copy() if rng.random() < 0.3 else b
        lacking = int((~told).argmax())
        assert b.routes_from == lacking
    t = b.fill(pb.Trajectory())
    if t.HasField("routes"):
        found, known = unpacked(t.routes), np.flatnonzero(told)
        assert np.array_equal(found[known], truth[known])
        assert (found[~told[: len(found)]] == SMALL.unknown).all() and len(found) <= len(b.tokens) - 1
    else:
        assert not told.any()


def test_who_asks_for_no_routes_asks_from_nowhere() -> None:
    assert TrajectoryBuilder().routes_from is None
    with pytest.raises(ValueError, match="those before were of"):
        builder_of(3, 5).routed(packed(SHAPES[3], rows_of(SHAPES[3], 2)))


def test_a_context_that_another_begins_leaves_it_its_rows() -> None:
    short, long = builder_of(3, 5), builder_of(3, 5, rows=False)
    long.context("tool", [1, 2])
    (only,) = merged([short, long])
    assert only is long and np.array_equal(unpacked(only.fill(pb.Branch()).routes), rows_of(SMALL, 7))
