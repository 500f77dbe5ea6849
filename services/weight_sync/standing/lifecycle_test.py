"""What may be served after any row of decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.standing.lifecycle import Lifecycle, NothingLeft

PROMOTE, REJECT, ROLL_BACK = pb.DECISION_PROMOTE, pb.DECISION_REJECT, pb.DECISION_ROLL_BACK


def committed(*steps: int) -> Lifecycle:
    life = Lifecycle()
    for step in steps:
        life.commit(step)
    return life


def test_what_is_rejected_is_never_served() -> None:
    life = committed(1, 2, 3)
    life.decide(3, REJECT, "NaN")
    assert life.served() == 2 and life.standing(3).reason == "NaN"
    life.commit(4)
    assert life.served() == 4 and life.served(3) == 2


def test_behind_a_rollback_nothing_newer_is_served_until_it_is_promoted() -> None:
    life = committed(1, 2, 3)
    life.decide(2, ROLL_BACK, "worse")
    life.commit(4)
    assert life.served() == 2 and life.standing(4).state == life.standing(3).state == pb.VERSION_STATE_VERIFIED
    life.decide(1, PROMOTE, "")
    life.commit(5)
    assert (life.served(), life.rolled_back) == (2, True)
    life.decide(4, PROMOTE, "")
    life.commit(6)
    assert (life.served(), life.rolled_back) == (6, False)


def test_something_that_was_served_stays_to_be_served_whatever_is_rejected() -> None:
    life = committed(1, 2)
    life.decide(2, REJECT, "")
    before = life.dump()
    with pytest.raises(NothingLeft, match="version 1 cannot be rejected"):
        life.decide(1, REJECT, "")
    assert life.dump() == before and life.served() == 1
    life.decide(2, REJECT, "again")
    assert life.served() == 1


STEPS = st.integers(1, 6)
DECISIONS: list[pb.Decision] = [PROMOTE, REJECT, ROLL_BACK]
MOVES = st.lists(st.tuples(STEPS, st.sampled_from(DECISIONS)), max_size=20)


@given(MOVES)
def test_after_any_decisions_something_is_served_and_it_survives_a_restart(
    moves: list[tuple[int, pb.Decision]],
) -> None:
    life, rejected = committed(*range(1, 7)), set[int]()
    for step, decision in moves:
        try:
            life.decide(step, decision, "why")
        except NothingLeft:
            continue
        rejected = rejected | {step} if decision == REJECT else rejected - {step}
        served = life.served()
        assert served is not None and served not in rejected
        if decision == ROLL_BACK:
            assert served == step
    assert Lifecycle.load(life.dump(), range(1, 7)).dump() == life.dump()


def test_a_version_committed_before_a_crash_could_be_noted_is_taken_up_as_committed() -> None:
    life = committed(1, 2)
    life.decide(1, ROLL_BACK, "")
    again = Lifecycle.load(life.dump(), [1, 2, 3])
    assert again.served() == 1 and again.standing(3).state == pb.VERSION_STATE_VERIFIED
    for text in ("", "{}", "[]", '{"rolled_back": 0, "standings": {"1": [99, ""]}}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Lifecycle.load(text, [1])
