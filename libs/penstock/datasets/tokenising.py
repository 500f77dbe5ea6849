"""Samples from a data set ride the same log: demonstrations and ranked answers are tokenised into trajectories."""

import json
from collections.abc import Sequence

from penstock.chat import ChatTokenizer, TemplateError
from penstock.recipes import Longest, TooLong
from penstock.trajectories import TrajectoryError, check_trajectory, demonstration, failed
from penstock.trajectory.v1 import trajectory_pb2 as pb


def tokenise(
    chat: ChatTokenizer,
    model: str,
    task: pb.GroupTask,
    index: int,
    longest: Longest,
    roles: Sequence[str] = ("assistant",),
) -> pb.Trajectory:
    """The trajectory of demonstration or answer `index` of a task; FAILED{invalid} if the template cannot render it, or
    it is too long and may not be cut.

    roles: whose messages of a demonstration are trained on (see ChatTokenizer.demonstration).
    An answer's score is its reward: the learner ranks a data set's answers like samples of the policy.
    """
    score = None
    try:
        if task.HasField("preference"):
            answer = task.preference.answers[index]
            prompt, score = task.preference.prompt, answer.score
            tools = json.loads(task.preference.tools_json or "[]")
            tokens, mask = chat.demonstration([*prompt, answer.message], context=len(prompt), tools=tools)
        else:
            shown = task.demonstration.demonstrations[index]
            tools = json.loads(shown.tools_json or "[]")
            tokens, mask = chat.demonstration(shown.messages, roles=roles, tools=tools)
        kept = longest.kept(len(tokens))
        t = demonstration(task, index, model, tokens[:kept], mask[:kept])
        if kept < len(tokens):
            t.outcome.status = pb.Outcome.STATUS_TRUNCATED
        if score is not None:
            t.components.add(name="preference", value=score, weight=1.0)
            t.reward = score
        check_trajectory(t)
    except (TemplateError, TrajectoryError, TooLong, IndexError) as error:
        return failed(task, index, model, pb.Outcome.FAILURE_INVALID, str(error))
    return t
