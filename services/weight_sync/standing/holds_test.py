"""A hold bounds receivers exactly as long as its lease lives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.weight_sync.standing.holds import MOST, Holds, TooManyHolds

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.sampled_from("abc"), st.integers(0, 9), st.floats(0, 20)),
        st.tuples(st.just("release"), st.sampled_from("abc"), st.just(0), st.just(0.0)),
    )
)


def test_a_hold_whose_lease_has_ended_holds_nothing() -> None:
    holds = Holds()
    holds.hold("evaluation", 4, until=10.0, now=0.0)
    assert holds.ceiling(9.9) == 4
    assert holds.ceiling(10.0) is None and holds.next_expiry(10.0) is None


def test_the_lowest_hold_counts_and_renewal_moves_its_end() -> None:
    holds = Holds()
    holds.hold("a", 7, until=5.0, now=0.0)
    holds.hold("b", 3, until=9.0, now=0.0)
    assert holds.ceiling(0.0) == 3 and holds.next_expiry(0.0) == 5.0
    holds.hold("a", 2, until=20.0, now=0.0)
    assert holds.ceiling(10.0) == 2 and holds.next_expiry(10.0) == 20.0
    holds.release("a")
    holds.release("a")
    assert holds.ceiling(8.0) == 3


def test_there_are_never_more_than_most_holds() -> None:
    holds = Holds()
    for n in range(MOST):
        holds.hold(f"h{n}", n, until=5.0, now=0.0)
    with pytest.raises(TooManyHolds):
        holds.hold("one more", 0, until=9.0, now=0.0)
    holds.hold("h0", 1, until=9.0, now=0.0)  # a renewal
    holds.hold("one more", 7, until=9.0, now=5.0)  # the others have ended
    assert holds.ceiling(6.0) == 1


@given(OPERATIONS, st.floats(0, 20))
def test_the_ceiling_is_that_of_the_living_leases(operations: list[tuple[str, str, int, float]], now: float) -> None:
    holds, model = Holds(), dict[str, tuple[int, float]]()
    for kind, holder, step, until in operations:
        if kind == "hold":
            holds.hold(holder, step, until, now=0.0)
            model[holder] = (step, until)
        else:
            holds.release(holder)
            model.pop(holder, None)
    living = [step for step, until in model.values() if until > now]
    assert holds.ceiling(now) == (min(living) if living else None)
