"""The end of a sample that was scored."""

from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.scoring import total


def ended(t: pb.Trajectory, components: list[pb.RewardComponent], truncated: bool) -> pb.Trajectory:
    """Writes the reward and how it ended into `t`, and gives it back. truncated: whether a budget ended it."""
    t.components.extend(components)
    t.reward = total(components)
    t.outcome.status = pb.Outcome.STATUS_TRUNCATED if truncated else pb.Outcome.STATUS_COMPLETED
    t.ended_at.GetCurrentTime()
    return t
