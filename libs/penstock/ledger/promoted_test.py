"""Which version counts as promoted, whatever was decided and forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.ledger import Ledger
from penstock.ledger.snapshot import dump, load
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Decision

PROMOTE, REJECT, ROLL_BACK = Decision.DECISION_PROMOTE, Decision.DECISION_REJECT, Decision.DECISION_ROLL_BACK
DECISIONS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([PROMOTE, REJECT, ROLL_BACK])), max_size=20)


def decided(*decisions: tuple[int, Decision]) -> Ledger:
    ledger = Ledger()
    ledger.step = 9
    for sequence, (step, decision) in enumerate(decisions, 1):
        ledger.apply_decision(pb.VersionDecision(step=step, decision=decision), sequence)
    return ledger


def test_the_newest_promoted_version_counts_and_the_last_word_on_each() -> None:
    assert Ledger().promoted == 0 and not Ledger().rejected(3)
    ledger = decided((1, PROMOTE), (2, PROMOTE), (2, REJECT), (3, REJECT))
    assert ledger.promoted == 1 and ledger.rejected(2) and ledger.rejected(3) and not ledger.rejected(1)
    assert decided((3, REJECT), (3, PROMOTE)).promoted == 3
    assert decided((4, ROLL_BACK)).promoted == 4


@given(DECISIONS, st.integers(0, 9))
def test_forgetting_keeps_what_is_promoted_and_what_was_rejected_since(
    decisions: list[tuple[int, Decision]], behind: int
) -> None:
    ledger = decided(*decisions)
    promoted, rolled_back = ledger.promoted, ledger.rolled_back
    rejected = {step for step in range(behind + 1, 10) if ledger.rejected(step)}
    ledger.forget(behind)
    assert (ledger.promoted, ledger.rolled_back) == (promoted, rolled_back)
    assert {step for step in range(behind + 1, 10) if ledger.rejected(step)} == rejected
    assert sum(step <= behind for step in ledger.decisions) <= 2
    again = load(dump(ledger, {}))
    assert (again.promoted, again.rolled_back) == (promoted, rolled_back)
