"""What concerns the run as a whole: how far it may run ahead, what it measures, how much it keeps and what it tells."""

from typing import Any, Literal

from pydantic import Field

from penstock.recipes.sections.base import Fraction, Positive, Section


class Staleness(Section):
    """How far generation may run ahead of training."""

    max_versions: int = Field(default=2, ge=0, description="0 is synchronous on-policy")
    allow_uncorrected: bool = Field(
        default=False, description="permit an asynchronous run with neither correction nor clip"
    )


class Evaluation(Section):
    """Held-out measurement during training, pinned to a version: of `data.eval`, which the environment's tasks are made
    of, or, where training reads rows and there is no environment, on which the learner measures its loss."""

    every: int = Field(
        default=0, ge=0, description="steps between evaluations; 0 evaluates at the start and the end only"
    )
    tasks: Positive = Field(default=128, description="rows of data.eval to use")
    samples_per_task: Positive = 1
    temperature: float = Field(default=1.0, ge=0, le=10)
    solved_reward: float = Field(default=1.0, description="reward from which a sample is solved (pass@k, cons@k)")
    reward: str | None = Field(
        default=None,
        description="measure this part of the reward alone, whatever its weight; the weighted total if absent",
    )
    target_reward: float | None = Field(
        default=None, description="stop the run when an evaluation's mean reward reaches this; never if absent"
    )
    target_loss: float | None = Field(
        default=None, description="stop the run when the held-out loss falls to this; never if absent"
    )


class Rollout(Section):
    """The episode drivers."""

    workers: Positive = 1
    groups_per_worker: Positive = Field(default=64, description="groups one worker drives at the same time")
    attempts: Positive = Field(default=4, description="generation attempts of one turn before the sample has FAILED")
    deliveries: Positive = Field(
        default=5, description="deliveries of one task before its group is left to its deadline"
    )
    generation_timeout_seconds: float = Field(default=300.0, gt=0, description="deadline of one Generate call")
    max_branches: int = Field(
        default=16,
        ge=1,
        le=256,
        description="contexts that a sample of an agent may have, its main one counted; one with more has FAILED",
    )


class Gateway(Section):
    """The OpenAI-compatible door through which agents draw samples; started where a source's environment is one."""

    replicas: Positive = Field(default=1, description="processes of the gateway")
    agent_sampling: Literal["refuse", "override"] = Field(
        default="refuse",
        description="what becomes of a call that asks for another distribution than `sampling`: an error, or the run's "
        "own with a header that says so",
    )


class Limits(Section):
    """Bounds that keep a run from filling a machine."""

    log_bytes: Positive = Field(
        default=4 * 2**30,
        description="size of the trajectory log; a full log pauses generation, and ends a run that nobody trims",
    )
    keep_log: bool = Field(
        default=True,
        description="keep the whole log for replay; false trims it behind checkpoints, and makes one when it is full",
    )
    group_deadline_seconds: float = Field(
        default=600.0, gt=0, description="age at which a group is closed with what it has"
    )
    outage_seconds: float = Field(
        default=1800.0,
        ge=0,
        description="time for which another team's reward or environment may be away before samples fail; their groups "
        "wait, and may outlast their deadline by it",
    )
    replicas: Literal[1, 3, 5] = Field(
        default=1, description="copies of each stream, in a NATS cluster of yours (`penstock create`)"
    )
    stall_seconds: float = Field(
        default=120.0, gt=0, description="time without progress after which a stall is reported"
    )


class Packages(Section):
    """Packages of your own (rewards, environments, trackers) beside those that our locks pin."""

    folder: str | None = Field(default=None, description="folder that `penstock env add` makes; none if absent")
    sha256: str | None = Field(
        default=None, description="what is in it: filled in when a run starts, which then goes on with nothing else"
    )


class Canary(Section):
    """A trial of every version before it is served: a few engines take it, play held-out tasks and are compared with
    the learner and with the version before. What fails is rejected, and those engines go back."""

    replicas: Positive = Field(default=1, description="engines that take a version first")
    samples: Positive = Field(default=64, description="held-out samples that they play, as far as there are so many")
    mismatch_kl: float = Field(
        default=0.05, gt=0, description="most KL between engine and learner over samples of the last batch"
    )
    reward_drop: float = Field(
        default=0.1, ge=0, description="most by which the mean reward may be below that of the version served before"
    )
    seconds: float = Field(default=120.0, gt=0, le=3600, description="a trial that is not over by then has failed")
    on_reject: Literal["pause", "continue"] = Field(
        default="pause",
        description="pause: nothing is admitted until somebody resumes the run; continue: the last good version is "
        "served on, as far as staleness.max_versions allows",
    )
    train_rejected: bool = Field(
        default=False, description="train what versions drew on trial, without waiting for what becomes of them"
    )


class WeightSync(Section):
    """The version store."""

    keep_versions: Positive = Field(default=4, description="versions kept; older ones that nobody uses are retired")
    full_every: Positive = Field(
        default=32,
        description="of so many versions one is pushed whole, the others as what changed since the one before, unless "
        "that is more than 40 % of it; 1 pushes all of them whole, and ranks keep no copy of what they pushed last",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="type in which tensors are published; that of the engines, model.dtype, if absent"
    )
    canary: Canary | None = Field(default=None, description="absent: every version is served as soon as it is complete")


class Alert(Section):
    """Marks the run when a metric of metrics.jsonl stays beyond a limit."""

    metric: str = Field(description="name as in metrics.jsonl; a family watches each of its members")
    above: float | None = Field(default=None, description="raised where the metric is greater")
    below: float | None = Field(default=None, description="raised where the metric is less")
    steps: Positive = Field(default=3, description="steps in a row that it must be beyond the limit")


ALERTS = (
    Alert(metric="rl.policy.mismatch_kl", above=0.1),
    Alert(metric="rl.policy.ess_share", below=0.3),
    Alert(metric="rl.policy.masked_share", above=0.5),
    Alert(metric="rl.policy.clip_share", above=0.5),
    Alert(metric="rl.policy.entropy", below=1e-3, steps=10),
    Alert(metric="rl.routes.apart", above=0.5),
    Alert(metric="rl.failed", above=0.05),
    Alert(metric="rl.completion.truncated", above=0.5, steps=10),
)


class Telemetry(Section):
    """What is recorded, and where it goes besides the run directory."""

    trace_fraction: Fraction = Field(default=0.05, description="share of samples whose spans are recorded")
    alerts: tuple[Alert, ...] = Field(default=ALERTS, description="limits whose passing marks the run")
    tensorboard: bool = True
    wandb_project: str | None = Field(
        default=None, description="Weights & Biases project (needs wandb installed and configured)"
    )
    mlflow_experiment: str | None = Field(
        default=None, description="MLflow experiment (needs mlflow installed and configured)"
    )
    trackers: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="trackers of packages of yours by the name they announce, with their settings, which are no place "
        "for secrets",
    )
