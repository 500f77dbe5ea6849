"""`algorithm.preference`, `.reward_model`: what is minimised over whole answers, by the name of the loss and with its
parameters.

What the recipe leaves out is filled in when a section is made: every choice brings its own defaults (`choices.py`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from penstock.recipes.choices import PREFERENCES, preference_choice
from penstock.recipes.sections.base import Positive, Section, filled, stated


class PairLoss(Section):
    """One preference loss: its name, weight and parameters."""

    choosers: ClassVar[tuple[str, ...]] = ("loss",)

    loss: str = Field(default="sigmoid", description=", ".join(PREFERENCES))
    weight: float = Field(default=1.0, gt=0, description="of this loss in their sum")
    beta: float | None = Field(
        default=None,
        gt=0,
        description="strength of the pull towards the reference; .1 if absent, simpo 2, length_normalised 5",
    )
    label_smoothing: float | None = Field(
        default=None,
        ge=0,
        lt=0.5,
        description="share of labels that are wrong: sigmoid (then cDPO), robust, aot, exo; 0 if absent, exo 1e-3",
    )
    margin: float | None = Field(default=None, ge=0, description="simpo: target margin; .5 if absent")
    tau: float | None = Field(
        default=None, gt=0, description="discopop: width of the change from one form to the other; .05 if absent"
    )

    settings: dict[str, float] = Field(
        default_factory=dict, description="parameters of a preference loss of your own (plugins)"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_its_defaults(cls, given: Any) -> Any:
        """What the recipe leaves out is what the chosen loss means by that."""
        if not isinstance(given, Mapping):
            return given
        return filled(given, preference_choice(str(given.get("loss", "sigmoid"))).parameters)

    @property
    def parameters(self) -> dict[str, float]:
        """What the preference loss of that name is made with."""
        return stated(self, preference_choice(self.loss).parameters) if self.loss in PREFERENCES else self.settings


class Preference(PairLoss):
    """The preference loss of dpo, and how pairs are made of a group's scored answers."""

    more: tuple[PairLoss, ...] = Field(
        default=(), description="further losses, added to the first one by their weights (MPO: sigmoid and bco, say)"
    )
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = Field(
        default="reverse_kl",
        description="from the reference (f-DPO); others than reverse_kl with "
        + ", ".join(name for name, choice in PREFERENCES.items() if choice.divergence),
    )
    divergence_order: float | None = Field(default=None, gt=0, description="divergence alpha: its order; .5 is usual")
    source: Literal["rollouts", "dataset"] = Field(
        default="rollouts",
        description="rollouts: online, from the policy's own scored samples; dataset: offline, from ranked answers",
    )
    nll_coefficient: float = Field(default=0.0, ge=0, description="weight of the chosen answer's likelihood (RPO)")
    nll_normalisation: Literal["token", "sequence", "sum"] = Field(
        default="token",
        description="the likelihood's mean over tokens of all chosen answers, over answers of their tokens' mean, or "
        "over answers of their tokens' sum",
    )
    length_share: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="length desensitisation (LD-DPO): what the tokens of the longer answer count that are "
        "beyond the shorter one's length; 1 if absent",
    )
    pairs_per_group: Positive = Field(default=1, description="pairs of a group: best with worst, second with ...")
    min_margin: float = Field(
        default=0.0, ge=0, description="a pair's rewards must differ by more; groups without a pair are filtered"
    )
    importance_cap: float | None = Field(
        default=None,
        gt=0,
        description="rollouts: weigh a pair by how much likelier its answers are now than when they were drawn, at "
        "most this; unweighted if absent",
    )
    wpo: bool = Field(
        default=False,
        description="weigh a pair by how near its answers are to what the policy would say itself, at most 1 (WPO)",
    )

    @property
    def losses(self) -> tuple[PairLoss, ...]:
        """All of them."""
        return (self, *self.more)


class RewardModelLoss(Section):
    """The loss of reward_model: Bradley-Terry over a row's ranked answers."""

    margin: float = Field(default=0.0, ge=0, description="by how much the better answer's score should be larger")
    centring: float = Field(
        default=0.0, ge=0, description="pull of the mean score towards 0, which changes no order; .01 is usual"
    )
    min_margin: float = Field(
        default=0.0, ge=0, description="two answers are a pair if the data's scores differ by more than this"
    )
