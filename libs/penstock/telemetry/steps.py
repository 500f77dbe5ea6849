"""The register of a step's metrics: name, unit and one sentence of meaning, for everything that metrics.jsonl may hold.

The learner, the coordinator's summary, alerts, the dashboard and docs/metrics.md take names from here, so that a name
that nothing reports is found where it is written, not by an alert that never rings.

    REWARD_MEAN = _step("rl.reward.mean", "reward", "…")        one metric
    REWARD_COMPONENT = _each("rl.reward.component", "name", …)  one for each name: member(REWARD_COMPONENT, "parsed")
    POLICY + "clip_share"                                       what the trainer calls clip_share

Invariant (test name): whatever a step reports is in the register.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetric:
    """One metric, or with `each` a family of them: `name` is what they begin with, `each` what follows the dot.

    reported: whether it is in the learner's step report, which alerts look at; the coordinator adds the others.
    absent: what a report without the member says of it; None where it says nothing.
    """

    name: str
    unit: str
    meaning: str
    each: str = ""
    reported: bool = True
    absent: float | None = None


_METRICS: dict[str, StepMetric] = {}
MOST_MEMBERS = 256


def _step(name: str, unit: str, meaning: str, *, reported: bool = True) -> str:
    _METRICS[name] = StepMetric(name, unit, meaning, reported=reported)
    return name


def _each(name: str, each: str, unit: str, meaning: str, *, absent: float | None = None) -> str:
    _METRICS[name] = StepMetric(name, unit, meaning, each, absent=absent)
    return name


SAMPLES_TRAINED = _step("rl.samples.trained", "samples", "samples in the batch")
SAMPLES_MASKED = _step("rl.samples.masked", "samples", "usable samples of the batch's groups that are not trained on")
SAMPLES_FAILED = _each(
    "rl.samples.failed", "kind", "samples", "failed samples of the batch's groups, by kind of failure", absent=0.0
)
FAILED = _each(
    "rl.failed",
    "cause",
    "share",
    "share of failed samples by cause, also of whole groups that failed since the step before: a reward and its gRPC "
    "status, or that it gave no score (`math.UNAVAILABLE`, `math.invalid`); else the kind of failure",
    absent=0.0,
)
TOKENS_TRAINED = _step("rl.tokens.trained", "tokens", "tokens of the trained samples, prompts included")
TOKENS_GIVEN = _step("rl.tokens.given", "tokens", "tokens that the samples of the step's updates put into the model")
TOKENS_COMPUTED = _step(
    "rl.tokens.computed",
    "tokens",
    "those of them that were computed: what samples begin with alike once, what stands behind their last trained token "
    "not at all",
)
TOKENS_DEAD = _step(
    "rl.tokens.dead",
    "tokens",
    "those given by samples that cannot change the weights (all advantages 0, no term that reaches them): scored for "
    "the other metrics, not trained",
)
GROUPS_DEAD = _step("rl.groups.dead", "share", "share of the trained groups that consist of such samples")
EXPERTS_ENTROPY = _step(
    "rl.experts.entropy",
    "share",
    "mixtures: entropy of how often each expert was taken in training, over that of even use, mean over layers",
)
EXPERTS_LARGEST = _step("rl.experts.largest", "share", "mixtures: share of a layer's choices on its busiest expert")
EXPERTS_DEAD = _step("rl.experts.dead", "share", "mixtures: share of the experts that no trained token was sent to")
ROUTES_KNOWN = _step(
    "rl.routes.known",
    "share",
    "mixtures that replay routes: share of the trained samples' inputs that went to the experts which the engine "
    "recorded; the others were routed anew",
)
ROUTES_APART = _step(
    "rl.routes.apart",
    "share",
    "mixtures that replay routes: share of these choices, one a token and layer, in which the learner's router would "
    "have chosen other experts",
)
ROUTES_UNSHARED = _step(
    "rl.routes.unshared",
    "share",
    "mixtures that replay routes: share of the computed tokens that begin like others but went another way, and so "
    "were computed apart",
)
TOKENS_GENERATED = _step("rl.tokens.generated", "tokens", "tokens that engines drew for the batch's groups")
LENGTH_MEAN = _step("rl.completion.length.mean", "tokens", "mean length of the trained completions")
LENGTH_MAX = _step("rl.completion.length.max", "tokens", "length of the longest trained completion")
LENGTH_GAP = _step("rl.completion.length.gap", "tokens", "by how much trained completions are longer than drawn ones")
TRUNCATED = _step("rl.completion.truncated", "share", "share of the samples that were cut off")
STALENESS_MEAN = _step("rl.staleness.mean", "versions", "mean age of the groups when they were trained")
STALENESS_MAX = _step("rl.staleness.max", "versions", "age of the oldest group")
STALENESS_SHARE = _each("rl.staleness.share", "versions", "share", "share of the groups that were so many versions old")
REWARD_MEAN = _step("rl.reward.mean", "reward", "mean reward of all scored samples, trained or not")
REWARD_STD = _step("rl.reward.std", "reward", "standard deviation of their rewards")
REWARD_COMPONENT = _each("rl.reward.component", "name", "reward", "mean of one part of the reward")
REWARD_SOURCE = _each("rl.reward.source", "name", "reward", "mean reward of one source of a mixture")
LOSS = _step("rl.loss", "loss", "the method's loss over the batch")
TRAIN_SECONDS = _step("rl.train.seconds", "s", "time of the training itself")
STEP_SECONDS = _step("rl.step.seconds", "s", "time from the end of the step before to the end of this one")

GENERATED_PER_SECOND = _step(
    "rl.tokens.generated_per_second", "tokens/s", "speed of all engines when the step ended", reported=False
)
TASKS_PENDING = _step(
    "rl.tasks.pending", "groups", "tasks that no worker has taken when the step ended", reported=False
)
GROUPS_IN_FLIGHT = _step(
    "rl.groups.in_flight", "groups", "groups admitted and not released when the step ended", reported=False
)

SYSTEM_CPU = _step(
    "rl.system.cpu",
    "share",
    "share of the coordinator's cores that were busy since the step before",
    reported=False,
)
SYSTEM_MEMORY = _step("rl.system.memory", "share", "share of that host's memory that is in use", reported=False)
SYSTEM_DISK = _step(
    "rl.system.disk", "share", "share of the disk of the run's directory that is in use", reported=False
)

REWARDS = "rl.reward."
POLICY = "rl.policy."
VALIDATION = "rl.validation."
_OF_TRAINER = {
    "loss": ("loss", "as rl.loss"),
    "grad_norm": ("norm", "norm of the gradient before it is clipped, mean of the optimizer steps"),
    "learning_rate": ("", "learning rate of the last optimizer step"),
    "tokens": ("tokens", "tokens with a loss"),
    "entropy": ("nats", "mean entropy of the policy at these tokens"),
    "optimizer_steps": ("steps", "optimizer steps since the run began"),
    "skipped_steps": ("steps", "optimizer steps skipped for a gradient that was not finite, since the run began"),
    "micro_batches": ("", "micro-batches of each data-parallel rank"),
    "packing_waste": ("share", "share of the micro-batches' token budget that carried nothing"),
    "packing_imbalance": ("", "work of the busiest data-parallel rank over the mean of all; 1 where it is equal"),
    "kl": ("nats", "mean KL to the reference policy: the loss's term, or what the reward was charged for"),
    "clip_share": ("share", "share of tokens that the trust region clipped"),
    "masked_share": ("share", "share of tokens whose off-policy correction is 0"),
    "weight_mean": ("", "mean off-policy correction"),
    "ess_share": ("share", "effective sample size of the corrections (Kish) over the tokens; 1 where all are equal"),
    "mismatch_kl": ("nats", "KL from the engine's policy to the learner's, estimated on what the engine drew (k3)"),
    "ratio_p01": ("", "1st percentile of the probability ratio of learner and engine"),
    "ratio_p50": ("", "its median"),
    "ratio_p99": ("", "its 99th percentile"),
    "logprob_gap_max": ("nats", "largest difference of the log-probs of learner and engine"),
    "mismatched_share": ("share", "share of tokens left out because learner and engine disagree (loss.mismatch_limit)"),
    "divergence": ("nats", "mean divergence from the teacher's likeliest tokens"),
    "value_loss": ("loss", "the critic's loss"),
    "value_grad_norm": ("norm", "norm of the critic's gradient"),
    "value_learning_rate": ("", "the critic's learning rate"),
    "value_mean": ("reward", "mean value that the critic gave before the step"),
    "value_explained": ("share", "share of the returns' variance that the critic explains"),
    "value_clip_share": ("share", "share of values that the critic's clip held back"),
    "value_skipped_steps": ("steps", "as skipped_steps, of the critic"),
    "accuracy": ("share", "share of pairs in the right order; equal scores of a reward model count half"),
    "margin": ("reward", "mean difference of reward between the better and the worse answer"),
    "reward_chosen": ("reward", "mean implicit reward of chosen answers"),
    "reward_rejected": ("reward", "mean implicit reward of rejected answers"),
    "reward_mean": ("reward", "mean score that the reward model gives"),
    "nll": ("nats", "mean negative log-likelihood of the chosen answers' tokens"),
}
_OF_VALIDATION = ("loss", "accuracy", "margin", "reward_chosen", "reward_rejected", "reward_mean", "nll")
for _name, (_unit, _meaning) in _OF_TRAINER.items():
    _step(POLICY + _name, _unit, _meaning)
for _name in _OF_VALIDATION:
    _step(VALIDATION + _name, _OF_TRAINER[_name][0], f"`{_name}` of held-out rows that the learner measures itself")


def register() -> Mapping[str, StepMetric]:
    """All metrics by name, families by what their members begin with."""
    return _METRICS


def of_trainer(name: str) -> str:
    """The metric that a trainer reports under `name`, unless that is a metric's whole name already."""
    return name if name in _METRICS else POLICY + name


def member(family: str, name: str | int) -> str:
    """The metric of a family for one name."""
    return f"{family}.{name}"


def bounded(family: str, values: Mapping[str, float]) -> dict[str, float]:
    """The members of a family for these names, MOST_MEMBERS at most, the first in order: names come from rewards of
    others, and a report that has all of a thousand samples' own is larger than a message may be."""
    return {member(family, name): values[name] for name in sorted(values)[:MOST_MEMBERS]}


def find(name: str) -> StepMetric | None:
    """The metric of this name, or the family that it is a member of."""
    exact = _METRICS.get(name)
    if exact is not None and not exact.each:
        return exact
    return next(
        (m for m in _METRICS.values() if m.each and name.startswith(m.name + ".") and name != m.name + "."), None
    )


def members(name: str, report: Mapping[str, float]) -> dict[str, float]:
    """What a step report has of a metric, or of the members of a family; empty if nothing."""
    family = _METRICS.get(name)
    if family is None or not family.each:
        return {name: report[name]} if name in report else {}
    return {each: value for each, value in report.items() if each.startswith(name + ".")}


def unknown(names: Iterable[str]) -> list[str]:
    """Those that are not in the register."""
    return [name for name in names if find(name) is None]


def nearest(name: str) -> str:
    """The metric of step reports that is most like `name`."""
    known = [m.name + (f".<{m.each}>" if m.each else "") for m in _METRICS.values() if m.reported]
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
