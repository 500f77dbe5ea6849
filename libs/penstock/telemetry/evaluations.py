"""The register of an evaluation's metrics: what evaluations.jsonl and trackers may have of one, beside `step` and
`time`.

Invariant (test name): whatever an evaluation reports is in the register.
"""

from penstock.telemetry.steps import StepMetric

EVALUATIONS = (
    StepMetric("reward", "reward", "mean reward of the scored samples"),
    StepMetric("best_of_n", "reward", "mean over tasks of the best sample's reward"),
    StepMetric("length", "tokens", "mean of the generated tokens"),
    StepMetric("failed", "samples", "samples without a score"),
    StepMetric("samples", "samples", "samples with a score, or rows that the learner measured"),
    StepMetric("pass@", "share", "chance that one of k samples solves its task", each="k"),
    StepMetric("cons@", "share", "tasks whose most frequent answer of n samples solves them", each="n"),
    StepMetric("reward.", "reward", "mean reward of one source of a mixture", each="source"),
    StepMetric("component.", "reward", "mean of one part of the reward", each="name"),
    StepMetric(
        "loss", "loss", "loss of held-out rows that the learner measures, and with it the others of `rl.validation`"
    ),
)


def known(name: str) -> bool:
    """Whether an evaluation may report this."""
    return any(name.startswith(m.name) and name != m.name if m.each else name == m.name for m in EVALUATIONS)
