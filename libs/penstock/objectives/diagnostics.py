"""Numbers that say how far off-policy a batch was, from flat per-token arrays of the whole batch."""

import torch
from torch import Tensor

from penstock.objectives.inputs import LossInputs

PERCENTILES = {"ratio_p01": 0.01, "ratio_p50": 0.5, "ratio_p99": 0.99}


def mismatch(proximal: Tensor, behaviour: Tensor, mask: Tensor) -> dict[str, float]:
    """Distance between the learner's policy at the start of the step (p) and the engine's (g). All [T].

    `mismatch_kl`: mean of k3 = e^(p−g) − 1 − (p−g), an estimate of KL(g‖p) on g's samples; `ratio_p01`, `ratio_p50`,
    `ratio_p99`: percentiles of exp(p−g); `logprob_gap_max`: largest |p−g|. All 0 (ratio 1) for equal policies; NaN if
    nothing is trained.
    """
    delta = (proximal - behaviour)[mask > 0].to(torch.float64)
    if not len(delta):
        return dict.fromkeys(("mismatch_kl", *PERCENTILES, "logprob_gap_max"), float("nan"))
    bounded = delta.clamp(-20.0, 20.0)
    ratios = bounded.exp().sort().values
    return {
        "mismatch_kl": float((bounded.exp() - 1 - bounded).mean()),
        **{name: float(ratios[min(len(delta) - 1, int(q * len(delta)))]) for name, q in PERCENTILES.items()},
        "logprob_gap_max": float(delta.abs().max()),
    }


def sequence_mismatch(proximal: Tensor, behaviour: Tensor, mask: Tensor, sequence: Tensor, sequences: int) -> Tensor:
    """float64 [sequences]: mean of exp(|p−g|) over each sequence's trained tokens; 1 for equal policies, 0 where
    nothing is trained.

    The mean of a ratio, not the ratio of a mean: one token that the engine and the learner disagree on wholly shows,
    where an average of log-probs would drown it (NeMo RL's `seq_logprob_error_threshold` looks at the same number).
    """
    trained = mask.to(torch.float64)
    error = (proximal - behaviour).to(torch.float64).abs().clamp(max=20.0).exp()
    sums = torch.zeros(sequences, dtype=torch.float64, device=mask.device).index_add(0, sequence, error * trained)
    counts = torch.zeros_like(sums).index_add(0, sequence, trained)
    return sums / counts.clamp(min=1.0)


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
