"""What weight_sync has decided and the ledger does not have, as the decisions behind which both say the same. Pure.

A decision is weight_sync's first and the ledger's then; whoever was to record it may have died in between, and so may
weight_sync before it answered. What it says of its versions is what it has decided, however that came.

Invariant (test name): whatever of the decisions was not recorded, the ledger says behind these what weight_sync does:
whether a rollback stands, what is served then or where versions are tried, and what is rejected.
"""

from typing import NamedTuple

from penstock.ledger import Ledger
from penstock.trajectory.v1.trajectory_pb2 import VersionDecision
from penstock.weights.v1 import weights_pb2 as pb

SERVED = "it is served"
ROLLED_BACK = "it is served since a rollback"
LONGEST_REASON = 1000
GONE = (pb.VERSION_STATE_STAGING, pb.VERSION_STATE_RETIRED)


class Unrecorded(NamedTuple):
    """A decision that the ledger lacks."""

    step: int
    decision: pb.Decision
    reason: str


def unrecorded(listed: pb.ListVersionsResponse, ledger: Ledger, *, tries: bool) -> list[Unrecorded]:
    """Those decisions, in their order. tries: whether versions are tried, so that the ledger knows what is served.

    One that is served though the ledger has it rejected is not among them: see `served_though_rejected`.
    """
    found, then = list[Unrecorded](), _standing(ledger)
    infos = [info for info in listed.versions if info.state not in GONE and info.version.step <= ledger.step]
    kept = {info.version.step: info for info in infos}

    def lacks(step: int, decision: pb.Decision, reason: str) -> None:
        found.append(Unrecorded(step, decision, reason[:LONGEST_REASON]))
        then.apply_decision(VersionDecision(step=step, decision=decision), then.sequence)

    for step, info in sorted(kept.items()):
        if info.state == pb.VERSION_STATE_REJECTED and not then.rejected(step):
            lacks(step, pb.DECISION_REJECT, info.reason)
    served = kept.get(listed.served.step) if listed.HasField("served") else None
    if served is None or served_though_rejected(listed, ledger) is not None:
        return found
    step = served.version.step
    if listed.HasField("rolled_back"):
        back = then.rolled_back >= 0 and not then.rejected(then.rolled_back)
        if listed.rolled_back and (not back or then.served != step):
            lacks(step, pb.DECISION_ROLL_BACK, served.reason or ROLLED_BACK)
        elif not listed.rolled_back and then.served > step and (then.rolled_back >= 0 or _waits(kept.get(then.served))):
            lacks(step, pb.DECISION_ROLL_BACK, ROLLED_BACK)  # which is over since
        if not listed.rolled_back and then.rolled_back >= 0:
            lacks(step, pb.DECISION_PROMOTE, SERVED)
    if tries and then.served < step:
        lacks(step, pb.DECISION_PROMOTE, SERVED)
    return found


def served_though_rejected(listed: pb.ListVersionsResponse, ledger: Ledger) -> int | None:
    """The version that is served, where the ledger has it rejected and no rollback to it stands: a store that was lost
    knows nothing of that."""
    step = listed.served.step
    wrong = listed.HasField("served") and ledger.rejected(step) and not listed.rolled_back
    return step if wrong else None


def _waits(info: pb.VersionInfo | None) -> bool:
    """Whether a version waits for a person: a rollback took it back."""
    return info is not None and info.state == pb.VERSION_STATE_VERIFIED and bool(info.reason)


def _standing(ledger: Ledger) -> Ledger:
    """What was decided so far, to be gone on with."""
    copied = Ledger()
    copied.step, copied.rolled_back = ledger.step, ledger.rolled_back
    copied.decisions, copied.taken_back = dict(ledger.decisions), list(ledger.taken_back)
    return copied
