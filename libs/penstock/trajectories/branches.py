"""The contexts of one sample: its main one and its further branches, each a sequence to train.

    main      prompt  a1  tool  a2          trained: a1, a2
    branch    prompt  a1  other     a3      trained: a3 (a1 is trained where it was drawn)
    branch    prompt  a1                    begins main: merged into it

Invariants (test names): a drawn token is trained in one context alone; no context begins another.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.trajectories.building import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb

Drawn = pb.Trajectory | pb.Branch
"""One context: both messages have the fields of one by the same names."""


def contexts(t: pb.Trajectory) -> list[Drawn]:
    """The sample's contexts, the main one first."""
    return [t, *t.branches]


def trained_tokens(t: pb.Trajectory) -> int:
    """How many drawn tokens the sample trains, over all of its contexts."""
    return sum(each.loss_mask.count(1) for each in contexts(t))


def returns(t: pb.Trajectory, discount: float) -> list[float]:
    """What each context is worth: what it earned and, discounted once for each, what those that began after it did.

    A sample whose contexts earned nothing by themselves has earned its reward in the last of them.
    """
    earned = list(t.branch_rewards) or [*[0.0] * len(t.branches), t.reward]
    for i in reversed(range(len(earned) - 1)):
        earned[i] += discount * earned[i + 1]
    return earned


def merged(builders: Sequence[TrajectoryBuilder]) -> list[TrajectoryBuilder]:
    """The contexts without those that begin another: what they have drawn is trained there. They keep their order."""
    kept: list[TrajectoryBuilder] = []
    for longer in sorted(builders, key=lambda each: len(each.tokens)):
        kept = [each for each in kept if not _taken_in(longer, each)]
        kept.append(longer)
    places = {id(each): at for at, each in enumerate(builders)}
    return sorted(kept, key=lambda each: places[id(each)])


def _taken_in(longer: TrajectoryBuilder, shorter: TrajectoryBuilder) -> bool:
    """Whether one begins with the other, which it then has taken in."""
    if longer.tokens[: len(shorter.tokens)] != shorter.tokens:
        return False
    longer.take_in(shorter)
    return True


def of_contexts(t: pb.Trajectory, given: Sequence[pb.Branch]) -> pb.Trajectory:
    """Writes contexts into `t`, the first as its main one, and gives it back. They are as `merged` gave them."""
    main, *others = given
    for field, value in main.ListFields():
        if isinstance(value, int | bytes):
            setattr(t, field.name, value)
        elif isinstance(value, pb.Routes):
            t.routes.CopyFrom(value)
        else:
            getattr(t, field.name).extend(value)
    t.branches.extend(others)
    return t


def fill(t: pb.Trajectory, builders: Sequence[TrajectoryBuilder]) -> pb.Trajectory:
    """Writes the contexts into `t`, the first as its main one, and gives it back. They are as `merged` gave them."""
    return of_contexts(t, [each.fill(pb.Branch()) for each in builders])
