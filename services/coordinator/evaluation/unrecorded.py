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

    Nothing of what is served is among them where nobody decided it: see `undecided`.
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
    if served is None or undecided(listed, ledger):
        return found
    step = served.version.step
    if then.rejected(step) and not listed.rolled_back:
        lacks(step, pb.DECISION_PROMOTE, served.reason)
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


def undecided(listed: pb.ListVersionsResponse, ledger: Ledger) -> str:
    """What is served against the ledger though nobody decided it, as a sentence, or nothing: a store that was lost
    knows of no rejection and of no rollback, and what it is given is served without a reason."""
    if not listed.HasField("served") or listed.rolled_back:
        return ""
    step = listed.served.step
    decided = {i.version.step for i in listed.versions if i.state == pb.VERSION_STATE_READY and i.reason}
    if ledger.rejected(step) and step not in decided:
        return f"version {step} is served, and was rejected: promote it, or roll back"
    if listed.HasField("rolled_back") and ledger.rolled_back >= 0 and not decided:
        back = ledger.rolled_back
        return f"a rollback to version {back} stands, and a newer one is served: promote that, or roll back again"
    return ""


def _waits(info: pb.VersionInfo | None) -> bool:
    """Whether a version waits for a person: a rollback took it back."""
    return info is not None and info.state == pb.VERSION_STATE_VERIFIED and bool(info.reason)


def _standing(ledger: Ledger) -> Ledger:
    """What was decided so far, to be gone on with."""
    copied = Ledger()
    copied.step, copied.rolled_back = ledger.step, ledger.rolled_back
    copied.decisions, copied.taken_back = dict(ledger.decisions), list(ledger.taken_back)
    return copied
