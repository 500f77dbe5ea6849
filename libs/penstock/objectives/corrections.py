"""Off-policy correction weights: what a token's loss is multiplied by because another policy sampled it.

`p − g` is the log-ratio between the learner's policy at the start of the step and the engine that sampled the token:
staleness and engine mismatch together. The weight multiplies after clipping and never carries a gradient. Where a
whole sequence is judged, the *geometric mean* of the ratio is used: a plain product drifts to 0 or infinity with
length and would reject every long sequence.
"""

import torch
from torch import Tensor

from penstock.objectives.inputs import LossInputs, sequence_mean
from penstock.objectives.registry import off_policy_corrections


def _ratio(inputs: LossInputs) -> Tensor:
    return (inputs.proximal - inputs.behaviour).detach().exp()


def _sequence_ratio(inputs: LossInputs) -> Tensor:
    """exp(mean of p − g over the sequence's trained tokens), on every token of the sequence."""
    mean = sequence_mean((inputs.proximal - inputs.behaviour).detach(), inputs)
    return mean.exp()[inputs.sequence]


def _within(ratio: Tensor, low: float, high: float) -> Tensor:
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got low={low}, high={high}")
    return (ratio >= low) & (ratio <= high)


@off_policy_corrections("none")
def none(inputs: LossInputs) -> Tensor:
    """w = 1."""
    return torch.ones_like(inputs.mask)


@off_policy_corrections("tis")
def tis(inputs: LossInputs, *, cap: float = 2.0) -> Tensor:
    """Truncated importance sampling: w = min(exp(p − g), cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training". Default cap 2.
    """
    return _ratio(inputs).clamp(max=cap)


@off_policy_corrections("icepop")
def icepop(inputs: LossInputs, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """w = exp(p − g) if it lies in [low, high], else 0 (the token is dropped).

    Source: IcePop (Ling team 2025). Defaults [0.5, 5].
    """
    ratio = _ratio(inputs)
    return torch.where(_within(ratio, low, high), ratio, torch.zeros_like(ratio))


@off_policy_corrections("mis_token")
def mis_token(inputs: LossInputs, *, low: float = 0.5, high: float = 2.0) -> Tensor:
    """Masked importance sampling per token: w = 1 if exp(p − g) lies in [low, high], else 0.

    Source: Liu et al. 2025, "When speed kills stability". Defaults [0.5, 2].
    """
    return _within(_ratio(inputs), low, high).to(inputs.mask.dtype)


@off_policy_corrections("mis_sequence")
def mis_sequence(inputs: LossInputs, *, low: float = 0.5, high: float = 2.0) -> Tensor:
    """Masked importance sampling per sequence: all tokens kept (w = 1) if the geometric-mean ratio lies in [low, high].

    Source: as mis_token, with the geometric mean in place of the product. Defaults [0.5, 2].
    """
    return _within(_sequence_ratio(inputs), low, high).to(inputs.mask.dtype)


@off_policy_corrections("seq_mask_tis")
def seq_mask_tis(inputs: LossInputs, *, low: float = 0.5, high: float = 2.0, cap: float = 2.0) -> Tensor:
    """Sequences gated as in mis_sequence, tokens of kept sequences weighted as in tis. Defaults [0.5, 2], cap 2."""
    return mis_sequence(inputs, low=low, high=high) * tis(inputs, cap=cap)


@off_policy_corrections("opsm")
def opsm(inputs: LossInputs, *, limit: float = 1e-4) -> Tensor:
    """Off-policy sequence masking: w = 0 on a sequence with a negative advantage whose mean of g − p exceeds `limit`.

    A bad answer that the policy has already moved away from is not pushed further. Source: DeepSeek-V3.2 (2025, section
    3.1). Default 1e-4.
    """
    drift = sequence_mean((inputs.behaviour - inputs.proximal).detach(), inputs)[inputs.sequence]
    dropped = (inputs.advantage < 0) & (drift > limit)
    return (~dropped).to(inputs.mask.dtype)


@off_policy_corrections("m2po")
def m2po(inputs: LossInputs, *, limit: float = 0.04) -> Tensor:
    """Masks (w = 0) the trained tokens of the batch with the largest (p − g)² until the mean of the rest is <= `limit`.

    Only the few tokens that carry the variance are dropped, however stale the batch. It judges tokens against each
    other, so it must see the whole batch (see WHOLE_BATCH). Source: M2PO (Zheng et al. 2025). Default 0.04.
    """
    square = (inputs.proximal - inputs.behaviour).detach().to(torch.float64).square()
    trained = torch.nonzero(inputs.mask > 0)[:, 0]
    order = trained[torch.argsort(square[trained], stable=True)]
    means = square[order].cumsum(0) / torch.arange(1, len(order) + 1, device=order.device)
    weight = torch.zeros_like(inputs.mask)
    weight[order[means <= limit]] = 1.0  # running means of rising values rise: this is a prefix
    return weight


WHOLE_BATCH = ("m2po",)
"""Corrections that compare tokens of the whole batch; on a part of it they would depend on how it was cut."""
