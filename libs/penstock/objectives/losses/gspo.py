"""GSPO: clipping on the sequence's length-normalised ratio instead of on token ratios."""

from penstock.objectives.inputs import LossInputs, TokenLoss, sequence_mean
from penstock.objectives.losses.clipping import clipped_surrogate
from penstock.objectives.registry import policy_losses


@policy_losses("gspo")
def gspo(inputs: LossInputs, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> TokenLoss:
    """ppo_clip with ρ = exp(mean over the sequence of (current − proximal)), the same for all its tokens.

    Source: GSPO (Zheng et al. 2025, eq. 5–7). Use with `sequence` normalisation: then the mean over tokens of the
    per-token value below is the paper's per-sequence objective. Defaults: clip_low 3e-4, clip_high 4e-4 (section 5.1).
    """
    log_ratio = sequence_mean(inputs.current - inputs.proximal, inputs)[inputs.sequence]
    return clipped_surrogate(log_ratio, inputs.advantage, clip_low, clip_high, None)
