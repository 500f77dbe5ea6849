"""Clipped importance-ratio loss of PPO, as used by GRPO and DAPO."""

from penstock.objectives.inputs import LossInputs, TokenLoss
from penstock.objectives.losses.clipping import clipped_surrogate
from penstock.objectives.registry import policy_losses


@policy_losses("ppo_clip")
def ppo_clip(
    inputs: LossInputs, *, clip_low: float = 0.2, clip_high: float = 0.28, dual_clip: float | None = None
) -> TokenLoss:
    """ℓ = −min(ρA, clip(ρ, 1−εl, 1+εh)A), ρ = exp(current − proximal); with dual clip, for A < 0, ℓ ≤ −A·d.

    Source: PPO (Schulman et al. 2017, eq. 7); asymmetric bounds: DAPO (Yu et al. 2025, eq. 10); dual clip: Ye et al.
    2020, eq. 5, usual d = 3. Defaults: εl 0.2, εh 0.28, dual clip off. Raises ValueError for dual_clip ≤ 1.
    """
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip must be greater than 1, got {dual_clip}")
    log_ratio = inputs.current - inputs.proximal
    return clipped_surrogate(log_ratio, inputs.advantage, clip_low, clip_high, dual_clip)
