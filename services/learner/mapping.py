"""The recipe's sections as the learner's settings."""

from penstock.recipes import Recipe
from services.learner.settings import (
    AdvantageSettings,
    BatchSettings,
    CheckpointSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
    ScheduleSettings,
)


def parallel_settings(recipe: Recipe) -> ParallelSettings:
    p = recipe.learner.parallel
    return ParallelSettings(
        p.tensor, p.pipeline, p.context, p.sequence_parallel, recipe.learner.collective_minutes, p.virtual_stages
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
        learning_rate=o.learning_rate,
        weight_decay=o.weight_decay,
        beta1=o.beta1,
        beta2=o.beta2,
        epsilon=o.epsilon,
        clip_norm=o.clip_gradient,
        schedule=schedule,
        max_skipped=o.max_skipped,
    )


def precision_settings(recipe: Recipe) -> PrecisionSettings:
    return PrecisionSettings(weights="bf16" if recipe.model.dtype == "bfloat16" else "fp32")


def batch_settings(recipe: Recipe) -> BatchSettings:
    return BatchSettings(tokens_per_micro_batch=recipe.learner.micro_batch_tokens, recompute=recipe.learner.recompute)


def lora_settings(recipe: Recipe) -> LoraSettings | None:
    lora = recipe.learner.lora
    return None if lora is None else LoraSettings(lora.rank, lora.alpha, lora.targets)


def checkpoint_settings(recipe: Recipe) -> CheckpointSettings:
    c = recipe.learner.checkpoints
    return CheckpointSettings(c.keep, c.keep_best, c.metric, c.better == "larger", c.background)


def advantage_settings(recipe: Recipe) -> AdvantageSettings:
    filters = recipe.algorithm.filters
    everything = (filters.pass_rate_min, filters.pass_rate_max) == (0.0, 1.0)
    return AdvantageSettings(
        estimator=recipe.algorithm.advantage,
        max_tokens=recipe.sampling.max_tokens,
        drop_zero_variance=filters.zero_variance,
        pass_rate=None if everything else (filters.pass_rate_min, filters.pass_rate_max),
    )


def loss_settings(recipe: Recipe) -> LossSettings:
    """The loss with the parameters that its name takes."""
    a, loss = recipe.algorithm, recipe.algorithm.loss
    given = {"clip_low": loss.clip_low, "clip_high": loss.clip_high}
    clip = {name: value for name, value in given.items() if value is not None}
    parameters: dict[str, dict[str, float]] = {
        "ppo_clip": {"clip_high": 0.28, **clip},  # the default under staleness; the loss's own is .2
        "gspo": clip,
        "cispo": {"cap": loss.cap},
    }
    if loss.dual_clip is not None:
        parameters["ppo_clip"]["dual_clip"] = loss.dual_clip
    constant = {"max_tokens": recipe.sampling.max_tokens} if loss.normalisation == "constant" else {}
    return LossSettings(
        algorithm=a.name,
        policy_loss=loss.name,
        policy_loss_settings=parameters.get(loss.name, {}),
        correction=loss.correction,
        correction_settings={"cap": loss.correction_cap} if loss.correction == "tis" else {},
        proximal=loss.proximal,
        normalisation=loss.normalisation,
        normalisation_settings=constant,
        temperature=recipe.sampling.temperature,
    )
