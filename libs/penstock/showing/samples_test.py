"""A sample as people read it."""

from collections.abc import Sequence
from typing import Any, cast

from penstock.chat import ChatTokenizer
from penstock.showing.samples import readable
from penstock.trajectories.branches import fill, merged
from penstock.trajectories.building import TrajectoryBuilder, header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb


class Letters:
    """A tokenizer whose tokens are letters."""

    def text(self, tokens: Sequence[int], **how: Any) -> str:
        return "".join(map(chr, tokens))


def context(given: str, *drawn: str, step: int) -> TrajectoryBuilder:
    builder = TrajectoryBuilder()
    builder.context("user", list(map(ord, given)))
    for text in drawn:
        builder.begin_completion()
        segments = [pb.VersionSegment(first=0, version=version(1, step))]
        builder.drawn(list(map(ord, text)), [-0.5] * len(text), segments)
        builder.end_completion(pb.FINISH_REASON_STOP)
    return builder


def test_the_texts_of_the_turns_are_the_samples_text_in_every_context() -> None:
    task = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=1)
    t = fill(header(task, 0, "m"), merged([context("what?", "this", step=4), context("and?", "that", step=2)]))
    shown = readable(t, cast(ChatTokenizer, Letters()))
    assert "".join(turn.text for turn in shown.turns) == "what?this" == shown.prompt + shown.completion
    (branch,) = shown.branches
    assert [(turn.drawn, turn.text, turn.mean_logprob) for turn in branch.turns] == [
        (False, "and?", 0.0),
        (True, "that", -0.5),
    ]
    assert (shown.oldest_step, shown.newest_step) == (2, 4)
    assert not shown.branch_rewards


def test_what_contexts_earned_is_shown() -> None:
    task = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=1)
    t = fill(header(task, 0, "m"), merged([context("what?", "this", step=4), context("and?", "that", step=2)]))
    t.branch_rewards.extend([0.25, 1.0])
    assert list(readable(t, cast(ChatTokenizer, Letters())).branch_rewards) == [0.25, 1.0]
