"""Samples of an evaluation as the rows of a tracker's table."""

from penstock.chat import ChatTokenizer
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.reporting.trackers.tracker import Text

TEXTS = 16  # samples of one evaluation that are shown


def text_of(t: pb.Trajectory, chat: ChatTokenizer) -> Text:
    """A sample as people read it."""
    tokens, start = from_int32s(t.tokens), t.loss_mask.find(1)
    start = len(tokens) if start < 0 else start
    prompt, completion = chat.text(tokens[:start].tolist()), chat.text(tokens[start:].tolist())
    return Text(t.task_id, prompt, completion, t.reward if t.HasField("reward") else None)
