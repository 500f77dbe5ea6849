"""The recipe's choice of what trains the model.

A backend is imported when it is chosen: Megatron takes seconds.
"""

from collections.abc import Callable

from penstock.recipes import Recipe
from services.learner.interface.policy import Policy
from services.learner.interface.policy_spec import PolicySpec


def make_policy(recipe: Recipe) -> Policy:
    """A policy with the recipe's initial weights; torch.distributed is initialised, every rank calls this.

    Raises UnsupportedModel, LayoutError, ScheduleError, ValueError: bad input, before anything is allocated.
    """
    return _create(recipe)(PolicySpec.of(recipe))


def make_critic(recipe: Recipe, policy: Policy) -> Policy | None:
    """The policy's critic, on the same ranks; None where the recipe has none. Raises as `make_policy`."""
    if not recipe.has_critic:
        return None
    return _create(recipe)(PolicySpec.of_critic(recipe), beside=policy)


def _create(recipe: Recipe) -> Callable[..., Policy]:
    if recipe.learner.backend == "transformers":
        from services.learner.backends.transformers_fsdp.policy import TransformersPolicy

        return TransformersPolicy.create
    from services.learner.backends.megatron_core.policy import MegatronPolicy

    return MegatronPolicy.create
