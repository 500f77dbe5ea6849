"""`algorithm.loss`: what a policy gradient minimises, by the name of the loss and with its parameters.

What the recipe leaves out is filled in when a section is made: every choice brings its own defaults (`choices.py`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from penstock.recipes.choices import (
    CORRECTIONS,
    KL_ESTIMATORS,
    LOSSES,
    NORMALISATIONS,
    correction_choice,
    loss_choice,
)
from penstock.recipes.sections.base import Positive, Section, filled, stated


class Kl(Section):
    """A pull towards the model the run started from (the reference), added to the loss."""

    coefficient: float = Field(default=0.0, ge=0, description="weight of the KL term; 0 keeps no reference in memory")
    place: Literal["loss", "reward"] = Field(
        default="loss", description="reward: take the summed k1 off each sample's reward instead (estimator is unused)"
    )
    estimator: str = Field(
        default="k3",
        description=f"{', '.join(KL_ESTIMATORS)}; k1+ and k3+ have the gradient of k2, abs is of the log-ratio",
    )
    log_ratio_limit: float = Field(
        default=20.0, gt=0, le=20, description="log-ratios beyond count as this, and have no gradient"
    )
    value_limit: float = Field(
        default=10.0, gt=0, le=10, description="penalties of a token beyond count as this, likewise"
    )
    importance: Literal["none", "differentiable", "detached"] = Field(
        default="differentiable",
        description="how samples of older versions are weighted; differentiable k3 and detached k2 are unbiased",
    )


class Rejection(Section):
    """What is not trained because engine and learner are too far apart, whatever the correction weighs the rest by."""

    choosers: ClassVar[tuple[str, ...]] = ("by", "high")

    by: Literal[
        "none",
        "token_k1",
        "token_k2",
        "token_k3",
        "sum_k1",
        "sum_k2",
        "sum_k3",
        "mean_k1",
        "mean_k2",
        "mean_k3",
        "max_k2",
        "max_k3",
    ] = Field(
        default="none",
        description="a token's distance, or the sum, mean or maximum over an answer's tokens, of k1 (the log-ratio), "
        "k2 (half its square) or k3",
    )
    high: float | None = Field(
        default=None, gt=0, description="largest that is kept: a ratio for k1, a distance for k2 and k3; required"
    )
    low: float | None = Field(default=None, ge=0, description="k1: least ratio that is kept; 1 / high if absent")

    @model_validator(mode="before")
    @classmethod
    def _with_its_default(cls, given: Any) -> Any:
        """k1's bounds are symmetric where the recipe says one."""
        if not isinstance(given, Mapping) or not str(given.get("by")).endswith("k1") or not given.get("high"):
            return given
        return {**given, "low": 1 / given["high"]} if given.get("low") is None else given


class Loss(Section):
    """The policy loss of grpo (docs/algorithms.md has formulas, sources and when to use which)."""

    choosers: ClassVar[tuple[str, ...]] = ("name", "proximal", "correction")

    name: str = Field(default="ppo_clip", description=", ".join(LOSSES))
    clip_low: float | None = Field(
        default=None,
        ge=0,
        description="ratio clip below 1; ppo_clip .2, gspo 3e-4 if absent; of the log-ratio: geo_mean .4",
    )
    clip_high: float | None = Field(
        default=None,
        ge=0,
        description="ratio clip above 1 (DAPO's clip-higher); ppo_clip .28, gspo 4e-4, geo_mean .4 if absent",
    )
    dual_clip: float | None = Field(
        default=None, gt=1, description="bound on the ratio for negative advantages; off if absent"
    )
    cap: float | None = Field(default=None, gt=0, description="cispo: the cap of the ratio itself; 5 if absent")
    floor: float | None = Field(
        default=None, ge=0, description="cispo: the least that the ratio counts; 0 if absent, which is none"
    )
    tau_positive: float | None = Field(
        default=None, gt=0, description="sapo: sharpness of the gate where the advantage is > 0; 1 if absent"
    )
    tau_negative: float | None = Field(
        default=None, gt=0, description="sapo: sharpness of the gate elsewhere; 1.05 if absent"
    )
    delta: float | None = Field(
        default=None, gt=0, description="dppo: how far a token's probability may move; .2 if absent"
    )
    tau: float | None = Field(default=None, ge=0, description="dppo: weight of the squared log-ratio; 1e-3 if absent")
    beta: float | None = Field(default=None, gt=0, description="dro: pull towards the behaviour policy; required there")
    power_positive: float | None = Field(
        default=None, ge=0, description="vespo: exponent of the answer's ratio where the advantage is >= 0; 2 if absent"
    )
    decay_positive: float | None = Field(default=None, ge=0, description="vespo: how fast it fades there; 3 if absent")
    power_negative: float | None = Field(default=None, ge=0, description="vespo: the exponent elsewhere; 3 if absent")
    decay_negative: float | None = Field(default=None, ge=0, description="vespo: the fading elsewhere; 2 if absent")
    normalisation: str = Field(
        default="token",
        description=f"what a token's loss is divided by: {', '.join(NORMALISATIONS)}; if absent token, with gspo and "
        "geo_mean sequence",
    )
    proximal: Literal["recompute", "behaviour", "interpolate"] = Field(
        default="recompute",
        description="policy the ratio is taken against; interpolate guesses it from versions, which saves a forward "
        "pass where mini_batches > 1",
    )
    correction: str = Field(
        default="tis",
        description=f"off-policy correction: {', '.join(CORRECTIONS)}; if absent none where the loss is taken against "
        "the behaviour policy itself (proximal behaviour, dppo, dro, vespo)",
    )
    correction_cap: float | None = Field(
        default=None, gt=0, description="tis, tis_sequence, seq_mask_tis: cap of the importance weight; 2 if absent"
    )
    correction_low: float | None = Field(
        default=None,
        ge=0,
        description="least ratio that is kept: icepop, mis_*, seq_mask_tis (.5 if absent), icepop_sequence (0); "
        "tis_sequence: least weight (0)",
    )
    correction_high: float | None = Field(
        default=None,
        gt=0,
        description="greatest ratio that is kept: icepop (5 if absent), icepop_sequence (3), mis_*, seq_mask_tis (2)",
    )
    correction_limit: float | None = Field(
        default=None, gt=0, description="opsm: largest mean of g - c (.5 if absent); m2po: largest mean square (.04)"
    )
    correction_settings: dict[str, float] = Field(
        default_factory=dict, description="parameters of a correction of your own (plugins)"
    )
    correction_mean_one: Literal["none", "tokens", "answers"] = Field(
        default="none",
        description="divide the weights by their mean over the batch's trained tokens, or over its answers; costs a "
        "forward pass",
    )
    rejection: Rejection = Field(default_factory=Rejection)
    top_entropy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="train this share of the batch's tokens alone, those of the largest entropy (.2 is usual); costs a "
        "forward pass; all if absent",
    )
    mismatch_limit: float | None = Field(
        default=None,
        gt=1,
        description="leave a sample out whose tokens engine and learner find differently likely: mean of exp(|p - g|) "
        "above this (2, say); costs a forward pass; off if absent",
    )
    entropy_coefficient: float = Field(default=0.0, ge=0, description="weight of the entropy bonus")
    settings: dict[str, float] = Field(default_factory=dict, description="parameters of a loss of your own (plugins)")
    mini_batches: Positive = Field(default=1, description="optimizer steps a batch is cut into, by whole groups")
    kl: Kl = Field(default_factory=Kl)

    @model_validator(mode="before")
    @classmethod
    def _with_their_defaults(cls, given: Any) -> Any:
        """What the recipe leaves out is what the chosen loss and correction mean by that."""
        if not isinstance(given, Mapping):
            return given
        loss = loss_choice(str(given.get("name", "ppo_clip")))
        uncorrected = loss.behaviour or given.get("proximal") == "behaviour"
        correction = given.get("correction") or ("none" if uncorrected else "tis")
        normalisation = given.get("normalisation") or loss.normalisation
        chosen = filled(given, loss.parameters) | {"correction": correction, "normalisation": normalisation}
        return filled(chosen, correction_choice(str(correction)).parameters, "correction_")

    @property
    def parameters(self) -> dict[str, float]:
        """What the loss of that name is made with."""
        return stated(self, loss_choice(self.name).parameters) if self.name in LOSSES else self.settings

    @property
    def correction_parameters(self) -> dict[str, float]:
        """What the correction of that name is made with, likewise."""
        if self.correction not in CORRECTIONS:
            return self.correction_settings
        return stated(self, correction_choice(self.correction).parameters, "correction_")
