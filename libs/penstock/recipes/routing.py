"""Whether a mixture of experts trains on the routes that were drawn: what `learner.routing_replay` means if absent.

The resolved recipe says true or false, so that a run that goes on, its engines and its workers agree.
"""

from penstock.memory_plan import mixture_of
from penstock.recipes.recipe import Recipe

KEY = "learner.routing_replay"


def cannot_replay(recipe: Recipe) -> str:
    """What keeps the recipe from replaying routes, as a sentence behind the key; empty if nothing does."""
    if not mixture_of(recipe.model.path):
        return f"{recipe.model.path} is no mixture of experts, and has no routes; use false"
    if recipe.learner.backend != "megatron":
        return "backend transformers does not know a model's routers; use learner.backend=megatron, or false"
    if recipe.method.name not in ("policy_gradient", "critic", "distillation"):
        return (
            f"algorithm.name {recipe.algorithm.name} trains on no token as it was drawn: nobody recorded its route; "
            "use false"
        )
    return ""


def decided(recipe: Recipe) -> Recipe:
    """The recipe that says whether it replays."""
    if recipe.learner.routing_replay is not None:
        return recipe
    learner = recipe.learner.model_copy(update={"routing_replay": not cannot_replay(recipe)})
    return recipe.model_copy(update={"learner": learner})
