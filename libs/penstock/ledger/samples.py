"""A sample of the log against what the ledger says of its group. Pure."""

from penstock.ledger.state import Ledger
from penstock.rules.quarantine import BadEntry
from penstock.trajectories import newest_step
from penstock.trajectory.v1 import trajectory_pb2 as pb


def explained(t: pb.Trajectory, ledger: Ledger) -> bool:
    """Whether the ledger, as far as it is folded, has the admission of the sample's group and the batches that made its
    versions. A sample comes after both: where the ledger's end does not explain it, nothing will."""
    return ledger.knows(t.group) and (newest_step(t) or 0) <= ledger.step


def check_against_admission(t: pb.Trajectory, ledger: Ledger) -> None:
    """Raises BadEntry unless the sample is of its group as it was admitted, and of versions that were made. Of a group
    that the ledger has forgotten no sample is used, whatever it says."""
    group = ledger.groups.get(t.group)
    if group is None and ledger.knows(t.group):
        return
    if group is None:
        raise BadEntry(f"{t.group} was never admitted")
    admitted = group.admitted
    if (t.group_size, t.row) != (admitted.group_size, admitted.row):
        raise BadEntry(
            f"{t.group}/{t.index} is of a group of {t.group_size} and row {t.row}; "
            f"admitted was one of {admitted.group_size} and row {admitted.row}"
        )
    if (newest_step(t) or 0) > ledger.step:
        raise BadEntry(f"{t.group}/{t.index} was drawn by version {newest_step(t)}; the newest is {ledger.step}")
