"""Whether the model can be trained on a sample: asked before its group is recorded in a batch. Pure.

One that it cannot be trained on would end the learner after the batch was recorded, and every learner after it at the
same place.
"""

from penstock.rules.quarantine import BadEntry
from penstock.trajectories import contexts, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.policy import Takes


def check_takes(t: pb.Trajectory, takes: Takes) -> None:
    """Raises BadEntry unless the model can be trained on the sample."""
    longest = max(each.token_count for each in contexts(t))
    if longest > takes.longest:
        raise BadEntry(f"{t.group}/{t.index} has {longest} tokens; the learner takes {takes.longest}")
    fields = [("tokens", t.tokens), ("teacher_top_tokens", t.teacher_top_tokens)]
    fields += [(f"branches[{i}].tokens", branch.tokens) for i, branch in enumerate(t.branches)]
    for name, ids in ((name, from_int32s(field)) for name, field in fields):
        if len(ids) and not 0 <= ids.min() <= ids.max() < takes.vocabulary:
            low, high = int(ids.min()), int(ids.max())
            token = low if low < 0 else high
            raise BadEntry(f"{t.group}/{t.index}: {name} holds {token}, outside the vocabulary of {takes.vocabulary}")
