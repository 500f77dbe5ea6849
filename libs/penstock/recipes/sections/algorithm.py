"""`algorithm`: how a run learns, and the shape of a step.

Names that the registry of penstock.objectives knows are plain strings here: `choices.py` says what each of them takes.
"""

from typing import Literal

from pydantic import Field

from penstock.recipes.choices import ADVANTAGES
from penstock.recipes.sections.base import Fraction, Positive, Section
from penstock.recipes.sections.losses import Loss
from penstock.recipes.sections.preferences import Preference, RewardModelLoss


class Critic(Section):
    """PPO's critic (`advantage: gae`): a second model on the learner's ranks."""

    path: str | None = Field(
        default=None, description="directory it starts from, a reward model's or another; model.path if absent"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="its own; schedule and the rest are the optimizer's")
    discount: float = Field(default=1.0, gt=0, le=1, description="gamma: what a reward is worth a token earlier")
    decay: Fraction = Field(default=1.0, description="lambda: 1 waits for the reward, 0 believes the next value")
    clip: float = Field(default=0.2, ge=0, description="how far a value may move in a step; 0 is off")
    warmup_steps: int = Field(default=0, ge=0, description="steps at the start that train the critic alone")
    whiten: bool = Field(
        default=True, description="make the batch's advantages of mean 0 and deviation 1; else they are as estimated"
    )


class Reference(Section):
    """The model that a method compares with (`dpo`, `loss.kl`): the one the run started from, or one that follows."""

    sync_every: Positive | None = Field(
        default=None, description="steps after which the reference moves towards the policy (TR-DPO); never if absent"
    )
    mix: float = Field(
        default=0.6, gt=0, le=1, description="the policy's share in the reference then; 1 makes it the policy"
    )

    def due(self, step: int) -> bool:
        """Whether it moves after this step of the run."""
        return self.sync_every is not None and step % self.sync_every == 0


class Filters(Section):
    """Whole groups that are complete but carry no signal (their slot is given back at once), and truncated answers."""

    zero_variance: bool = Field(default=False, description="drop groups whose members all have the same reward")
    pass_rate_min: Fraction = Field(default=0.0, description="drop groups whose mean reward is lower")
    pass_rate_max: Fraction = Field(default=1.0, description="drop groups whose mean reward is higher")
    truncated: bool = Field(
        default=False,
        description="leave truncated answers out: not trained, and without a vote in the baseline (overlong filtering)",
    )
    own: tuple[str, ...] = Field(default=(), description="filters of your own (plugins), by name")


class Algorithm(Section):
    """What is optimised, and the shape of a step."""

    name: Literal["grpo", "dpo", "sft", "reward_model"] = Field(
        default="grpo",
        description="grpo and its family, dpo and its family (offline and online), supervised, or a reward model",
    )
    steps: Positive = Field(description="optimizer steps of the run")
    groups_per_step: Positive = Field(default=32, description="groups (prompts) in a batch")
    group_size: Positive = Field(default=8, description="samples per group")
    min_group_fraction: float = Field(
        default=0.5, gt=0, le=1, description="a group with fewer completed members has FAILED"
    )
    advantage: str = Field(
        default="batch_norm",
        description=", ".join(name for name, choice in ADVANTAGES.items() if not choice.needs)
        + "; "
        + ", ".join(f"{name} with a {choice.needs}" for name, choice in ADVANTAGES.items() if choice.needs),
    )
    advantage_settings: dict[str, float] = Field(
        default_factory=dict,
        description="parameters of the advantage (docs/algorithms.md), or of one of your own (plugins)",
    )
    reward_scale: float = Field(default=1.0, gt=0, description="factor of every reward before advantages")
    overlong_buffer: int = Field(
        default=0,
        ge=0,
        description="tokens before sampling.max_tokens from which an answer's reward falls, to -1 at the end (DAPO)",
    )
    truncated_scale: Fraction = Field(
        default=1.0, description="factor of the reward, where positive, of an answer that was cut off (stop properly)"
    )
    advantage_clip: float | None = Field(default=None, gt=0, description="largest absolute advantage; off if absent")
    branch_discount: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="agents whose samples have several contexts: what a reward is worth to the context before the one "
        "that earned it; 1 gives all of a sample's contexts its reward",
    )
    router_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="mixtures: weight of a loss that makes the experts' use even within a sequence; 1e-3 is usual",
    )
    loss: Loss = Field(default_factory=Loss)
    preference: Preference = Field(default_factory=Preference)
    reward_model: RewardModelLoss = Field(default_factory=RewardModelLoss)
    critic: Critic = Field(default_factory=Critic)
    reference: Reference = Field(default_factory=Reference)
    filters: Filters = Field(default_factory=Filters)
