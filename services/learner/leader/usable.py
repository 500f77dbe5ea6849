"""What a sample of the log must be, beside whole, before its group is recorded in a batch. Pure.

A sample that the model cannot be trained on would end the learner after its batch was recorded, and every learner after
it at the same place: so it is told apart here, before.
"""

from penstock.ledger import Ledger
from penstock.rules.quarantine import BadEntry
from penstock.trajectories import from_int32s, newest_step
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.policy import Takes


def explained(t: pb.Trajectory, ledger: Ledger) -> bool:
    """Whether the ledger, as far as it is folded, has the admission of the sample's group and the batches that made its
    versions. A sample comes after both: where the ledger's end does not explain it, nothing will."""
    return t.group in ledger.groups and (newest_step(t) or 0) <= ledger.step


def check_against_admission(t: pb.Trajectory, ledger: Ledger) -> None:
    """Raises BadEntry unless the sample is of its group as it was admitted, and of versions that were made."""
    group = ledger.groups.get(t.group)
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


def check_takes(t: pb.Trajectory, takes: Takes) -> None:
    """Raises BadEntry unless the model can be trained on the sample."""
    if t.token_count > takes.longest:
        raise BadEntry(f"{t.group}/{t.index} has {t.token_count} tokens; the learner takes {takes.longest}")
    for name, ids in (("tokens", from_int32s(t.tokens)), ("teacher_top_tokens", from_int32s(t.teacher_top_tokens))):
        if len(ids) and not 0 <= ids.min() <= ids.max() < takes.vocabulary:
            low, high = int(ids.min()), int(ids.max())
            token = low if low < 0 else high
            raise BadEntry(f"{t.group}/{t.index}: {name} holds {token}, outside the vocabulary of {takes.vocabulary}")
