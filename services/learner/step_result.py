"""What a step says about itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepResult:
    """Attributes:
    metrics: `loss`, `grad_norm`, `learning_rate`, `tokens`, `entropy`, `optimizer_steps`, `skipped_steps`,
      `micro_batches`; for grpo also `kl`, `clip_share`, `masked_share`, `weight_mean`, `ess_share`, `mismatch_kl`,
      `ratio_p99`, `logprob_gap_max`; for dpo `accuracy`, `margin`, `reward_chosen`, `reward_rejected`, `nll`. Equal on
      every rank.
    """

    metrics: dict[str, float]
