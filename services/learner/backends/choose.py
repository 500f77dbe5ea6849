"""The recipe's choice of what trains the model.

A backend is imported when it is chosen: Megatron takes seconds.
"""

import dataclasses
from collections.abc import Callable

from penstock.recipes import Recipe
from services.learner.algorithms.mapping import (
    batch_settings,
    lora_settings,
    loss_settings,
    optimizer_settings,
    parallel_settings,
    precision_settings,
)
from services.learner.interface.policy import Policy


def make_policy(recipe: Recipe) -> Policy:
    """A policy with the recipe's initial weights; torch.distributed is initialised, every rank calls this.

    Raises UnsupportedModel, LayoutError, ScheduleError, ValueError: bad input, before anything is allocated.
    """
    return _create(recipe)(
        recipe.model.path,
        parallel_settings(recipe),
        optimizer_settings(recipe),
        precision_settings(recipe),
        batch_settings(recipe),
        recipe.learner.seed,
        keep_reference=loss_settings(recipe).needs_reference,
        host_reference="reference" in recipe.learner.offload,
        lora=lora_settings(recipe),
        scores=recipe.trains_reward_model,
    )


def make_critic(recipe: Recipe, policy: Policy) -> Policy | None:
    """The policy's critic, on the same ranks; None where the recipe has none. Raises as `make_policy`."""
    critic = recipe.algorithm.critic
    if not recipe.has_critic:
        return None
    optimizer = optimizer_settings(recipe)
    schedule = dataclasses.replace(optimizer.schedule, warmup_steps=0)
    return _create(recipe)(
        critic.path or recipe.model.path,
        parallel_settings(recipe),
        dataclasses.replace(optimizer, learning_rate=critic.learning_rate, schedule=schedule),
        precision_settings(recipe),
        batch_settings(recipe),
        recipe.learner.seed,
        scores=True,
        beside=policy,
    )


def _create(recipe: Recipe) -> Callable[..., Policy]:
    if recipe.learner.backend == "transformers":
        from services.learner.backends.transformers_fsdp.policy import TransformersPolicy

        return TransformersPolicy.create
    from services.learner.backends.megatron_core.policy import MegatronPolicy

    return MegatronPolicy.create
