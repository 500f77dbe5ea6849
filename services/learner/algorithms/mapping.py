"""The recipe's sections as the learner's settings."""

from typing import Literal

from penstock.recipes import Recipe
from services.learner.algorithms.advantage_stage import AdvantageStage
from services.learner.algorithms.critic_stage import CriticStage
from services.learner.algorithms.distillation_stage import DistillationStage
from services.learner.algorithms.preference_stage import PreferenceStage
from services.learner.algorithms.reward_model_stage import RewardModelStage
from services.learner.algorithms.stages import Stage, Stages, SupervisedStage
from services.learner.interface.settings import (
    AdvantageSettings,
    BatchSettings,
    CheckpointSettings,
    CriticSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
    PreferenceSettings,
    RewardModelSettings,
    ScheduleSettings,
)

OVERLAP = 40_000_000
"""Gradients in a message, Megatron's own default: large enough for the network, small enough to begin early."""


def parallel_settings(recipe: Recipe) -> ParallelSettings:
    p = recipe.learner.parallel
    return ParallelSettings(
        p.tensor,
        p.pipeline,
        p.context,
        p.sequence_parallel,
        recipe.learner.collective_minutes,
        p.virtual_stages,
        p.expert,
        OVERLAP if p.overlap else 0,
        p.context_attention,
    )


def optimizer_settings(recipe: Recipe) -> OptimizerSettings:
    o = recipe.learner.optimizer
    schedule = ScheduleSettings(
        kind=o.schedule,
        warmup_steps=o.warmup_steps,
        total_steps=recipe.algorithm.steps,
        decay_steps=recipe.algorithm.steps // 5,
    )
    return OptimizerSettings(
        name=o.name,
        momentum=o.momentum,
        rate_adjustment=o.rate_adjustment,
        learning_rate=o.learning_rate,
        weight_decay=o.weight_decay,
        beta1=o.beta1,
        beta2=o.beta2,
        epsilon=o.epsilon,
        clip_norm=o.clip_gradient,
        schedule=schedule,
        max_skipped=o.max_skipped,
        on_host="optimizer" in recipe.learner.offload,
    )


def precision_settings(recipe: Recipe) -> PrecisionSettings:
    weights: dict[str, Literal["fp32", "bf16", "fp16"]] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    return PrecisionSettings(weights=weights[recipe.model.dtype])


def batch_settings(recipe: Recipe) -> BatchSettings:
    return BatchSettings(tokens_per_micro_batch=recipe.learner.micro_batch_tokens, recompute=recipe.learner.recompute)


def lora_settings(recipe: Recipe) -> LoraSettings | None:
    lora = recipe.learner.lora
    return None if lora is None else LoraSettings(lora.rank, lora.alpha, lora.targets)


def checkpoint_settings(recipe: Recipe) -> CheckpointSettings:
    c = recipe.learner.checkpoints
    return CheckpointSettings(c.keep, c.keep_best, c.metric, c.better == "larger", c.background)


def advantage_settings(recipe: Recipe) -> AdvantageSettings:
    a = recipe.algorithm
    everything = (a.filters.pass_rate_min, a.filters.pass_rate_max) == (0.0, 1.0)
    parts = recipe.rewards() if a.advantage == "gdpo" else ()
    return AdvantageSettings(
        estimator=a.advantage,
        estimator_settings={"weights": tuple(r.weight for r in parts)} if parts else a.advantage_settings,
        reward_scale=a.reward_scale,
        truncated_scale=a.truncated_scale,
        overlong_buffer=a.overlong_buffer,
        max_tokens=recipe.sampling.max_tokens,
        drop_zero_variance=a.filters.zero_variance,
        pass_rate=None if everything else (a.filters.pass_rate_min, a.filters.pass_rate_max),
        clip=a.advantage_clip,
        components=tuple(r.name for r in parts),
        filters=a.filters.own,
    )


def loss_settings(recipe: Recipe) -> LossSettings:
    """The loss with the parameters that its name takes."""
    a, loss = recipe.algorithm, recipe.algorithm.loss
    constant = {"max_tokens": recipe.sampling.max_tokens} if loss.normalisation == "constant" else {}
    return LossSettings(
        algorithm=a.name,
        policy_loss=loss.name,
        policy_loss_settings=loss.parameters,
        correction=loss.correction,
        correction_settings=loss.correction_parameters,
        proximal=loss.proximal,
        normalisation=loss.normalisation,
        normalisation_settings=constant,
        kl_coefficient=loss.kl.coefficient,
        kl_place=loss.kl.place,
        kl_estimator=loss.kl.estimator,
        kl_importance=loss.kl.importance,
        entropy_coefficient=loss.entropy_coefficient,
        temperature=recipe.sampling.temperature,
        divergence=recipe.teacher.divergence if recipe.teacher is not None and recipe.teacher.top else None,
        mismatch_limit=loss.mismatch_limit,
        optimizer_steps_per_batch=loss.mini_batches,
        preference=preference_settings(recipe),
        reward_model=reward_model_settings(recipe),
        critic=critic_settings(recipe),
    )


def preference_settings(recipe: Recipe) -> PreferenceSettings:
    p = recipe.algorithm.preference
    return PreferenceSettings(
        loss=p.loss,
        loss_settings=p.parameters,
        nll_coefficient=p.nll_coefficient,
        pairs_per_group=p.pairs_per_group,
        min_margin=p.min_margin,
        importance_cap=p.importance_cap,
    )


def reward_model_settings(recipe: Recipe) -> RewardModelSettings:
    r = recipe.algorithm.reward_model
    return RewardModelSettings(r.margin, r.centring, r.min_margin)


def critic_settings(recipe: Recipe) -> CriticSettings | None:
    c = recipe.algorithm.critic
    return CriticSettings(c.discount, c.decay, c.clip or None, c.warmup_steps) if recipe.has_critic else None


def make_stages(recipe: Recipe) -> Stages:
    """The way from groups to samples, of every source of tasks."""
    whole_only = [name for name, r in recipe.sources.items() if r.rolls_out and r.algorithm.filters.truncated]
    return Stages({name: _stage(r) for name, r in recipe.sources.items()}, whole_only)


def _stage(recipe: Recipe) -> Stage:
    match recipe.algorithm.name:
        case "sft":
            return SupervisedStage()
        case "grpo" if recipe.algorithm.advantage == "opd":
            return DistillationStage(recipe.algorithm.advantage_clip, recipe.teacher.top if recipe.teacher else 0)
        case "grpo" if recipe.has_critic:
            return CriticStage(advantage_settings(recipe))
        case "dpo":
            return PreferenceStage(preference_settings(recipe))
        case "reward_model":
            return RewardModelStage(recipe.algorithm.reward_model.min_margin)
        case _:
            return AdvantageStage(advantage_settings(recipe))
