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
    served, promoted, rolled_back = ledger.served, ledger.promoted, ledger.rolled_back
    rejected = {step for step in range(behind + 1, 10) if ledger.rejected(step)}
    ledger.forget(behind)
    assert (ledger.served, ledger.promoted, ledger.rolled_back) == (served, promoted, rolled_back)
    assert {step for step in range(behind + 1, 10) if ledger.rejected(step)} == rejected
    assert sum(step <= behind for step in ledger.decisions) <= 3
    again = load(dump(ledger, {}))
    assert (again.served, again.promoted, again.rolled_back) == (served, promoted, rolled_back)


def test_what_a_rollback_took_back_is_not_served_until_it_is_promoted_again() -> None:
    back = [(1, PROMOTE), (2, PROMOTE), (3, PROMOTE), (1, ROLL_BACK)]
    before, behind = decided(*back[:3]), decided(*back)
    assert (before.served, before.promoted, before.rolled_back) == (3, 3, -1)
    assert (behind.served, behind.promoted, behind.rolled_back) == (1, 3, 1)
    out = decided(*back, (1, PROMOTE))
    assert (out.served, out.promoted, out.rolled_back) == (1, 3, -1)
    rejected = [(0, PROMOTE), *back, (1, REJECT)]
    assert decided(*rejected, (0, PROMOTE)).rolled_back == -1, "it is what is served since"
    assert decided(*rejected[:3], (2, ROLL_BACK), (2, REJECT), (0, PROMOTE)).rolled_back == 2, "version 1 is served"
    assert decided(*back, (0, PROMOTE)).rolled_back == 1, "an older one changes nothing of what is served"
    assert [decided(*back, (step, PROMOTE)).served for step in (2, 3, 4)] == [2, 3, 4]


@given(DECISIONS)
def test_what_is_served_and_rolled_back_is_what_weight_sync_says_of_the_same_decisions(
    decisions: list[tuple[int, Decision]],
) -> None:
    """Of one that had all of them READY at first, as they were promoted one by one."""
    before: list[tuple[int, Decision]] = [(step, PROMOTE) for step in range(10)]
    ready, rolled_back = set(range(10)), -1
    taken = list[tuple[int, Decision]]()
    for step, decision in decisions:
        if decision == REJECT and ready <= {step}:
            continue  # refused: nothing would be left
        taken.append((step, decision))
        ready -= {step}
        if decision == ROLL_BACK:
            ready, rolled_back = {s for s in ready if s < step} | {step}, step
        elif decision == PROMOTE:
            ready |= {step}
            rolled_back = -1 if max(ready) == step else rolled_back
    ledger = decided(*before, *taken)
    assert (ledger.served, ledger.rolled_back) == (max(ready), rolled_back)
