"""Advantages from rewards, over intact groups: one file per estimator, of the same name.

All estimators: rewards [N], group [N] int64 (any ids; never derived from prompt text), valid [N] bool -> advantages [N]
in float64; `opo` takes lengths [N] too. Samples that are not valid (overlong, failed, reward invalid) do not vote in
any baseline and get 0. A group whose valid rewards are all *equal* gets exactly 0: equality is tested on the rewards,
because the standard deviation of equal but inexact floats is a tiny number, not zero, and dividing by it explodes.
"""

from penstock.objectives.advantages import batch_norm, dr_grpo, gdpo, grpo, maxrl, opo, reinforce_pp, rloo

__all__ = ["batch_norm", "dr_grpo", "gdpo", "grpo", "maxrl", "opo", "reinforce_pp", "rloo"]
