"""What a step says about itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.telemetry import steps
from services.learner.interface.policy import Policy, StepOutcome


@dataclass(frozen=True)
class StepResult:
    """metrics: by the names that `penstock.telemetry.steps` has of a trainer, or by whole names; which there are
    depends on the method. Equal on every rank. Raises ValueError for a name that the register lacks.
    """

    metrics: dict[str, float]

    def __post_init__(self) -> None:
        strange = steps.unknown(map(steps.of_trainer, self.metrics))
        if strange:
            raise ValueError(f"telemetry/steps.py does not say what {', '.join(strange)} mean")


def described(policy: Policy, outcomes: Sequence[StepOutcome], loss: float) -> dict[str, float]:
    """The metrics that every method has, over the optimizer steps of one batch, whose loss is the given one.

    What is said of tokens is a mean over all of them, what is said of micro-batches one over these; neither depends on
    how the batch was cut into steps.
    """
    micro_batches = sum(o.micro_batches for o in outcomes)
    sums = {name: sum(o.sums[name] for o in outcomes) for name in ("tokens", "entropy")}
    return {
        "loss": loss,
        "grad_norm": sum(o.gradient_norm for o in outcomes) / len(outcomes),
        "learning_rate": outcomes[-1].learning_rate,
        "tokens": sums["tokens"],
        "entropy": sums["entropy"] / max(sums["tokens"], 1.0),
        "optimizer_steps": float(policy.optimizer.steps),
        "skipped_steps": float(policy.optimizer.skipped),
        "micro_batches": float(micro_batches),
        steps.TOKENS_GIVEN: float(sum(o.given for o in outcomes)),
        steps.TOKENS_COMPUTED: float(sum(o.computed for o in outcomes)),
        **{
            name: sum(o.packing[name] * o.micro_batches for o in outcomes) / micro_batches
            for name in outcomes[0].packing
        },
        **{name: sum(o.experts[name] for o in outcomes) / len(outcomes) for name in outcomes[0].experts},
    }
