"""On-policy distillation: every drawn token's advantage is how much likelier the teacher finds it than the policy did.

A_t = log teacher(token_t) − log policy(token_t), both at the token that the policy drew: the sampled-token form of the
gradient of KL(policy ‖ teacher). It takes the place of rewards and baselines; losses, corrections and staleness are
those of any policy gradient. Source: GKD (Agarwal et al. 2023) with student samples; "On-policy distillation" (Thinking
Machines 2025).
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from penstock.trajectories import from_float32s
from services.learner.assembly import CompleteGroup
from services.learner.batch import Sample
from services.learner.stages import sample


class DistillationStage:
    """The Stage of `algorithm.advantage: opd`. `clip`: largest absolute advantage of a token, or None."""

    def __init__(self, clip: float | None) -> None:
        self._clip = clip

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        """None: the teacher has a word on every sample, whatever its reward."""
        return None

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The usable members with advantages per token. Raises ValueError for one that no teacher judged."""
        made = []
        for i, group in enumerate(groups):
            for t in (m.trajectory for m in group.usable):
                if not t.teacher_logprobs:
                    raise ValueError(f"{t.group}/{t.index} was not judged by a teacher")
                advantage = from_float32s(t.teacher_logprobs) - from_float32s(t.logprobs)
                if self._clip is not None:
                    advantage = np.clip(advantage, -self._clip, self._clip)
                made.append(sample(t, i, advantage))
        return made
