"""Supervised samples ride the same log: a demonstration is tokenised here and published like a trajectory."""

from penstock.chat import ChatTokenizer, TemplateError
from penstock.trajectories import TrajectoryError, check, demonstration, failed
from penstock.trajectory.v1 import trajectory_pb2 as pb


def tokenise(chat: ChatTokenizer, model: str, task: pb.GroupTask, index: int) -> pb.Trajectory:
    """The trajectory of demonstration `index` of a task; FAILED{invalid} if the template cannot render it."""
    try:
        tokens, mask = chat.demonstration(task.demonstration.demonstrations[index].messages)
        t = demonstration(task, index, model, tokens, mask)
        check(t)
    except (TemplateError, TrajectoryError, IndexError) as error:
        return failed(task, index, model, pb.Outcome.FAILURE_INVALID, str(error))
    return t
