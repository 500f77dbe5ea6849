"""On-policy distillation: every drawn token's advantage is how much likelier the teacher finds it than the policy did.

A_t = log teacher(token_t) − log policy(token_t), both at the token that the policy drew: the sampled-token form of the
gradient of KL(policy ‖ teacher). It takes the place of rewards and baselines; losses, corrections and staleness are
those of any policy gradient. Source: GKD (Agarwal et al. 2023) with student samples; "On-policy distillation" (Thinking
Machines 2025).

Where the teacher named its likeliest tokens, these travel with the sample and the loss is the divergence itself.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.stages import sample
from services.learner.interface.batch import Sample
from services.learner.interface.group import CompleteGroup


class DistillationStage:
    """The Stage of `algorithm.advantage: opd`. `clip`: largest absolute advantage of a token, or None. `top`: how many
    tokens the teacher was asked to name at every position."""

    def __init__(self, clip: float | None, top: int = 0) -> None:
        self._clip, self._top = clip, top

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        """None: the teacher has a word on every sample, whatever its reward."""
        return None

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The usable members with advantages per token. Raises ValueError for one that no teacher judged."""
        made = []
        for i, group in enumerate(groups):
            for t in (m.trajectory for m in group.usable):
                if not t.teacher_logprobs or t.teacher_top != self._top:
                    wanted = f"a teacher that names {self._top} tokens" if self._top else "a teacher"
                    raise ValueError(f"{t.group}/{t.index} was not judged by {wanted}")
                advantage = from_float32s(t.teacher_logprobs) - from_float32s(t.logprobs)
                if self._clip is not None:
                    advantage = np.clip(advantage, -self._clip, self._clip)
                made.append(dataclasses.replace(sample(t, i, advantage), alternatives=self._alternatives(t)))
        return made

    def _alternatives(self, t: pb.Trajectory) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        if not self._top:
            return None
        shape = (t.token_count, self._top)
        return from_int32s(t.teacher_top_tokens).reshape(shape), from_float32s(t.teacher_top_logprobs).reshape(shape)
