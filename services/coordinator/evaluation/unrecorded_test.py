"""What the ledger lacks of weight_sync's decisions, whichever of them were recorded: a real lifecycle is decided of."""

from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.ledger import Ledger
from penstock.trajectory.v1 import trajectory_pb2
from penstock.weights.v1 import weights_pb2 as pb
from services.coordinator.evaluation.unrecorded import undecided, unrecorded
from services.weight_sync.standing.lifecycle import Lifecycle, NothingLeft

PROMOTE, REJECT, ROLL_BACK = pb.DECISION_PROMOTE, pb.DECISION_REJECT, pb.DECISION_ROLL_BACK
NEWEST = 5
MOVES = st.lists(
    st.tuples(st.integers(0, NEWEST), st.sampled_from([PROMOTE, REJECT, ROLL_BACK]), st.booleans()), max_size=15
)


def listing(life: Lifecycle) -> pb.ListVersionsResponse:
    """What weight_sync says of its versions."""
    served, found = life.served(), pb.ListVersionsResponse(rolled_back=life.rolled_back)
    for step in range(NEWEST + 1):
        standing = life.standing(step)
        found.versions.add(version=PolicyVersion(step=step), state=standing.state, reason=standing.reason)
    if served is not None:
        found.served.step = served
    return found


def record(ledger: Ledger, step: int, decision: pb.Decision) -> None:
    ledger.apply_decision(trajectory_pb2.VersionDecision(step=step, decision=decision), ledger.sequence + 1)


def of(tries: bool) -> tuple[Lifecycle, Ledger]:
    life, ledger = Lifecycle(tries), Ledger()
    ledger.step = NEWEST
    for step in range(NEWEST + 1):
        life.commit(step)
    return life, ledger


@given(MOVES, st.booleans())
def test_whatever_was_not_recorded_the_ledger_says_behind_it_what_weight_sync_does(
    moves: list[tuple[int, pb.Decision, bool]], tries: bool
) -> None:
    life, ledger = of(tries)
    for step, decision, recorded in moves:
        life.trying()
        try:
            life.decide(step, decision, "why")
        except NothingLeft:
            continue
        if recorded:
            record(ledger, step, decision)
    found = listing(life)
    assume(not undecided(found, ledger))
    for step, decision, _ in unrecorded(found, ledger, tries=tries):
        record(ledger, step, decision)
    assert not unrecorded(found, ledger, tries=tries), "nothing is recorded again and again"
    assert (ledger.rolled_back >= 0) == life.rolled_back
    assert all(ledger.rejected(i.version.step) for i in found.versions if i.state == pb.VERSION_STATE_REJECTED)
    if tries or life.rolled_back:
        assert ledger.served == life.served()


def test_a_rollback_keeps_its_reason_and_a_way_out_of_it_is_one() -> None:
    for tries in (False, True):
        life, ledger = of(tries)
        life.decide(1, ROLL_BACK, "worse")
        (lacking,) = unrecorded(listing(life), ledger, tries=tries)
        assert lacking == (1, ROLL_BACK, "worse")
        record(ledger, 1, ROLL_BACK)
        life.decide(4, PROMOTE, "")
        assert unrecorded(listing(life), ledger, tries=tries) == [(4, PROMOTE, "it is served")]


def test_a_store_that_does_not_say_whether_a_rollback_stands_ends_none() -> None:
    life, ledger = of(False)
    record(ledger, 1, ROLL_BACK)
    found = listing(life)
    found.ClearField("rolled_back")
    assert not unrecorded(found, ledger, tries=False) and ledger.rolled_back == 1


def test_what_a_lost_store_serves_though_it_was_rejected_is_promoted_by_nobody() -> None:
    life, ledger = of(False)
    record(ledger, NEWEST, REJECT)
    found = listing(life)
    assert "was rejected: promote it" in undecided(found, ledger) and not unrecorded(found, ledger, tries=True)
    life.decide(3, ROLL_BACK, "rather this")
    found = listing(life)
    assert not undecided(found, ledger)
    assert unrecorded(found, ledger, tries=True) == [(3, ROLL_BACK, "rather this")]


def test_a_store_that_was_lost_ends_no_rollback() -> None:
    life, ledger = of(False)
    record(ledger, 1, ROLL_BACK)
    found = listing(life)
    assert "a rollback to version 1 stands" in undecided(found, ledger) and not unrecorded(found, ledger, tries=False)
    life.decide(NEWEST, PROMOTE, "")
    found = listing(life)
    assert not undecided(found, ledger)
    assert unrecorded(found, ledger, tries=False) == [(NEWEST, PROMOTE, "it is served")]


def test_what_a_person_promotes_though_it_was_rejected_is_recorded() -> None:
    life, ledger = of(True)
    life.decide(NEWEST, REJECT, "worse")
    record(ledger, NEWEST, REJECT)
    life.decide(NEWEST, PROMOTE, "it is not")
    found = listing(life)
    assert not undecided(found, ledger)
    assert unrecorded(found, ledger, tries=True)[0] == (NEWEST, PROMOTE, "it is not")


def test_a_version_of_a_batch_that_the_ledger_does_not_have_is_decided_of_later() -> None:
    life, ledger = of(True)
    life.decide(5, REJECT, "NaN")
    life.decide(4, PROMOTE, "")
    ledger.step = 3
    assert not unrecorded(listing(life), ledger, tries=True)
    ledger.step = 5
    assert [(step, decision) for step, decision, _ in unrecorded(listing(life), ledger, tries=True)] == [
        (5, REJECT), (4, PROMOTE)
    ]  # fmt: skip
