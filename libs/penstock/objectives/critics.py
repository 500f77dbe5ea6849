"""What a critic is for, and what it learns: advantages of tokens from values, and the loss of the values.

A value belongs to a trained token: what the critic expects of the episode from the tokens before it. Prompts and
observations have none; an episode's trained tokens follow each other as if nothing stood between them.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Estimates(NamedTuple):
    """advantages, returns: [T], 0 outside the mask."""

    advantages: Tensor
    returns: Tensor


def gae(
    values: Tensor,
    rewards: Tensor,
    mask: Tensor,
    sequence: Tensor,
    sequences: int,
    *,
    discount: float = 1.0,
    decay: float = 1.0,
) -> Estimates:
    """A_k = δ_k + γλ A_{k+1}, δ_k = r_k + γ V_{k+1} − V_k over the trained tokens k of a sequence; returns are A + V.

    Nothing follows the last token: an answer that was cut short is scored as it stands, and so is its end. With λ = 1
    (and γ = 1) every token's return is what follows of the reward, and the critic is a baseline alone; smaller λ trusts
    the critic more, for less variance. values, rewards, mask: [T]; sequence: [T] int64. Source: Schulman et al. 2016,
    eq. 16. Defaults γ 1, λ 1: with less, the values of a long answer's first tokens hardly hear of its reward (VC-PPO,
    Yuan et al. 2025).
    """
    kept = torch.nonzero(mask > 0)[:, 0]
    own = sequence[kept]
    counts = torch.bincount(own, minlength=sequences)
    place = torch.arange(len(kept), device=kept.device) - (torch.cumsum(counts, 0) - counts)[own]
    longest = int(counts.max()) if len(kept) else 0

    def table(column: Tensor) -> Tensor:
        """[sequences, longest + 1], zeros behind each sequence's end."""
        made = torch.zeros(sequences, longest + 1, dtype=torch.float64, device=values.device)
        made[own, place] = column[kept].to(torch.float64)
        return made

    value, reward = table(values), table(rewards)
    delta = reward + discount * torch.cat([value[:, 1:], value[:, :1] * 0], 1) - value
    advantage = torch.zeros_like(delta)
    after = delta.new_zeros(sequences)
    for k in reversed(range(longest)):
        after = delta[:, k] + discount * decay * after
        advantage[:, k] = after  # behind a sequence's end all is 0, and stays so
    advantages = torch.zeros_like(values, dtype=torch.float64)
    advantages[kept] = advantage[own, place]
    returns = (advantages + values.to(torch.float64)) * (mask > 0)
    return Estimates(advantages.to(values.dtype), returns.to(values.dtype))


def whitened(advantages: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(A − mean) / (std + ε) over the trained tokens of the whole batch; [T], 0 outside the mask."""
    kept = advantages[mask > 0].to(torch.float64)
    if len(kept) < 2:
        return advantages
    scaled = (advantages.to(torch.float64) - kept.mean()) / (kept.std() + epsilon)
    return (scaled * (mask > 0)).to(advantages.dtype)


def value_loss(current: Tensor, before: Tensor, returns: Tensor, *, clip: float | None = 0.2) -> tuple[Tensor, Tensor]:
    """ℓ = ½ max((v − R)², (clip(v, v₀ ± ε) − R)²): a value moves at most ε from what it was, the worse of both counts.

    current: [k] with gradient; before: v₀ [k], returns: R [k]. `clip` None turns it off. Returns (ℓ [k], where the
    clipped term decides [k] bool). Source: Schulman et al. 2017 in the form of OpenAI baselines' ppo2. Default ε 0.2.
    """
    plain = (current - returns).square()
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain, dtype=torch.bool)
    held = (before + (current - before).clamp(-clip, clip) - returns).square()
    return 0.5 * torch.maximum(plain, held), held > plain


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(R − V) / Var(R) over the given tokens: 1 is a perfect critic, 0 one that knows the mean alone, less is
    worse than none. 0 where all returns are equal."""
    spread = float(returns.to(torch.float64).var(correction=0)) if len(returns) else 0.0
    if spread == 0.0:
        return 0.0
    return 1.0 - float((returns - values).to(torch.float64).var(correction=0)) / spread
