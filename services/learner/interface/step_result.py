"""What a step says about itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.learner.interface.policy import Policy, StepOutcome


@dataclass(frozen=True)
class StepResult:
    """Attributes:
    metrics: `loss`, `grad_norm`, `learning_rate`, `tokens`, `entropy`, `optimizer_steps`, `skipped_steps`,
      `micro_batches`, `packing_waste`, `packing_imbalance`; for grpo also `kl`, `clip_share`, `masked_share`,
      `weight_mean`, `ess_share`, `mismatch_kl`, `ratio_p01`, `ratio_p50`, `ratio_p99`, `logprob_gap_max`, and
      `mismatched_share` where a limit is set; for dpo `accuracy`, `margin`, `reward_chosen`, `reward_rejected`, `nll`;
      for reward_model `accuracy`, `margin`, `reward_mean` and no `entropy`. Equal on every rank.
    """

    metrics: dict[str, float]


def described(policy: Policy, outcomes: Sequence[StepOutcome]) -> dict[str, float]:
    """The metrics that every method has, over the optimizer steps of one batch."""
    sums = {name: sum(o.sums[name] for o in outcomes) for name in ("tokens", "entropy")}
    return {
        "loss": sum(o.loss for o in outcomes) / len(outcomes),
        "grad_norm": sum(o.gradient_norm for o in outcomes) / len(outcomes),
        "learning_rate": outcomes[-1].learning_rate,
        "tokens": sums["tokens"],
        "entropy": sums["entropy"] / max(sums["tokens"], 1.0),
        "optimizer_steps": float(policy.optimizer.steps),
        "skipped_steps": float(policy.optimizer.skipped),
        "micro_batches": float(sum(o.micro_batches for o in outcomes)),
        **{name: sum(o.packing[name] for o in outcomes) / len(outcomes) for name in outcomes[0].packing},
    }
