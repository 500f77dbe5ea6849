"""Whether the model can be trained on a sample: asked before its group is recorded in a batch. Pure.

One that it cannot be trained on would end the learner after the batch was recorded, and every learner after it at the
same place.
"""

from penstock.rules.quarantine import BadEntry
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.policy import Takes


def check_takes(t: pb.Trajectory, takes: Takes) -> None:
    """Raises BadEntry unless the model can be trained on the sample."""
    if t.token_count > takes.longest:
        raise BadEntry(f"{t.group}/{t.index} has {t.token_count} tokens; the learner takes {takes.longest}")
    for name, ids in (("tokens", from_int32s(t.tokens)), ("teacher_top_tokens", from_int32s(t.teacher_top_tokens))):
        if len(ids) and not 0 <= ids.min() <= ids.max() < takes.vocabulary:
            low, high = int(ids.min()), int(ids.max())
            token = low if low < 0 else high
            raise BadEntry(f"{t.group}/{t.index}: {name} holds {token}, outside the vocabulary of {takes.vocabulary}")
