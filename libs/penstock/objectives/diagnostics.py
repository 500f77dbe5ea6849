"""Numbers that say how far off-policy a batch was, from flat per-token arrays of the whole batch."""

import torch
from torch import Tensor

from penstock.objectives.inputs import LossInputs


def mismatch(proximal: Tensor, behaviour: Tensor, mask: Tensor) -> dict[str, float]:
    """Distance between the learner's policy at the start of the step (p) and the engine's (g). All [T].

    `mismatch_kl`: mean of k3 = e^(p−g) − 1 − (p−g), an estimate of KL(g‖p) on g's samples; `ratio_p99`: 99th percentile
    of exp(p−g); `logprob_gap_max`: largest |p−g|. All 0 (ratio 1) for equal policies; NaN if nothing is trained.
    """
    delta = (proximal - behaviour)[mask > 0].to(torch.float64)
    if not len(delta):
        return {"mismatch_kl": float("nan"), "ratio_p99": float("nan"), "logprob_gap_max": float("nan")}
    bounded = delta.clamp(-20.0, 20.0)
    rank = min(len(delta) - 1, int(0.99 * len(delta)))
    return {
        "mismatch_kl": float((bounded.exp() - 1 - bounded).mean()),
        "ratio_p99": float(bounded.exp().sort().values[rank]),
        "logprob_gap_max": float(delta.abs().max()),
    }


def additive(inputs: LossInputs, weight: Tensor, clipped: Tensor) -> dict[str, Tensor]:
    """Sums over the trained tokens of a micro-batch that add up over micro-batches and ranks; see `shares`."""
    mask = inputs.mask
    w = (weight * mask).detach().to(torch.float64)
    return {
        "tokens": mask.sum(),
        "clipped": (clipped * mask).sum(),
        "dropped": ((weight == 0) * mask).sum(),
        "weight": w.sum(),
        "weight_square": w.square().sum(),
    }


def shares(totals: dict[str, float]) -> dict[str, float]:
    """From summed `additive` values: `clip_share`, `masked_share` (weight 0), `weight_mean`, `ess_share` (Kish:
    (Σw)² / (N·Σw²), 1 when all weights are equal)."""
    n = max(totals["tokens"], 1.0)
    square = totals["weight_square"]
    return {
        "clip_share": totals["clipped"] / n,
        "masked_share": totals["dropped"] / n,
        "weight_mean": totals["weight"] / n,
        "ess_share": totals["weight"] ** 2 / (n * square) if square > 0 else 0.0,
    }
