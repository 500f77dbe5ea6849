"""The time that a group has, under every clock."""

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from penstock.rules.allowance import allowance, over_by_clock

SECONDS = st.integers(-(10**10), 10**10)


@given(deadline=SECONDS, now=SECONDS, full=st.floats(0.1, 1e6))
def test_a_clock_that_is_wrong_takes_no_groups_time_away_and_gives_none_more_than_all_of_it(
    deadline: int, now: int, full: float
) -> None:
    given_time = allowance(Timestamp(seconds=deadline), full, float(now))
    assert 0 < given_time <= full
    if over_by_clock(Timestamp(seconds=deadline), float(now)):
        assert given_time == full


def test_a_right_clock_leaves_what_is_left() -> None:
    assert allowance(Timestamp(seconds=1030), 60.0, 1000.0) == 30.0
    assert not over_by_clock(Timestamp(seconds=1030), 1000.0) and over_by_clock(Timestamp(seconds=1000), 1000.0)
