"""Whether the model can be trained on a sample: asked before its group is recorded in a batch. Pure.

One that it cannot be trained on would end the learner after the batch was recorded, and every learner after it at the
same place.
"""

from penstock.rules.quarantine import BadEntry
from penstock.trajectories import RouteShape, contexts, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.policy import Takes


def without_unread(t: pb.Trajectory, takes: Takes) -> pb.Trajectory:
    """The sample without routes that the learner does not replay."""
    if takes.routes is None:
        for each in contexts(t):
            each.ClearField("routes")
    return t


def check_takes(t: pb.Trajectory, takes: Takes) -> None:
    """Raises BadEntry unless the model can be trained on the sample."""
    longest = max(each.token_count for each in contexts(t))
    if longest > takes.longest:
        raise BadEntry(f"{t.group}/{t.index} has {longest} tokens; the learner takes {takes.longest}")
    for shape in (RouteShape.of(each.routes) for each in contexts(t) if each.HasField("routes")):
        if takes.routes not in (None, shape):
            raise BadEntry(f"{t.group}/{t.index} has routes of {shape}; the learner's are of {takes.routes}")
    fields = [("tokens", t.tokens), ("teacher_top_tokens", t.teacher_top_tokens)]
    fields += [(f"branches[{i}].tokens", branch.tokens) for i, branch in enumerate(t.branches)]
    for name, ids in ((name, from_int32s(field)) for name, field in fields):
        if len(ids) and not 0 <= ids.min() <= ids.max() < takes.vocabulary:
            low, high = int(ids.min()), int(ids.max())
            token = low if low < 0 else high
            raise BadEntry(f"{t.group}/{t.index}: {name} holds {token}, outside the vocabulary of {takes.vocabulary}")
