"""GSPO: clipping on the sequence's length-normalised ratio instead of on token ratios."""

from penstock.objectives.inputs import LossInputs, TokenLoss, sequence_mean
from penstock.objectives.losses.clipping import clipped_surrogate
from penstock.objectives.registry import policy_losses


@policy_losses("gspo")
def gspo(inputs: LossInputs, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> TokenLoss:
    """ppo_clip with ρ_t = sg(s)·exp(c_t − sg(c_t)), s = exp(mean over the sequence of c − p): the value is the
    sequence's for all its tokens, the gradient each token's own.

    Source: GSPO (Zheng et al. 2025, eq. 5–7), in its token form (eq. 13–14), which has the same value and gradient
    where all tokens count alike, and lets a token's weight (icepop, mis_token) drop that very token. With `sequence`
    normalisation, its default, it is the paper's objective; with others long answers weigh more. Defaults: clip_low
    3e-4, clip_high 4e-4 (section 5.1).
    """
    own = inputs.current - inputs.current.detach()
    log_ratio = sequence_mean((inputs.current - inputs.proximal).detach(), inputs)[inputs.sequence] + own
    return clipped_surrogate(log_ratio, inputs.advantage, clip_low, clip_high, None)
