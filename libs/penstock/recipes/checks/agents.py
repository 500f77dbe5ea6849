"""What a recipe says of an environment that plays by itself, and of an agent, that could not be meant."""

from penstock.recipes.choices import advantage_choice
from penstock.recipes.recipe import Recipe


def check_agents(recipe: Recipe) -> list[str]:
    """Rewards beside the player's own, and what cannot be had of samples with several contexts."""
    environment = recipe.environment
    if environment is None:
        return []
    problems = []
    if environment.plays and environment.rewards:
        kind = "an agent" if environment.agent else "a multi_turn environment"
        problems.append(f"environment.rewards: {kind} gives the reward itself; leave the list empty")
    if not environment.agent:
        return problems
    if environment.multi_turn:
        problems.append("environment.agent: an agent has its own loop; leave multi_turn out")
    if recipe.teacher is not None:
        problems.append("environment.agent: a teacher judges one context, and an agent's samples may have several")
    if recipe.rolls_out and recipe.method.name not in ("policy_gradient", "critic"):
        problems.append(
            f"environment.agent: algorithm.name {recipe.algorithm.name} compares answers of one context each, and an "
            "agent's samples may have several; use grpo"
        )
    if recipe.method.name == "policy_gradient" and advantage_choice(recipe.algorithm.advantage).by_parts:
        problems.append(
            f"algorithm.advantage: {recipe.algorithm.advantage} compares the parts of a reward, and contexts of an "
            "agent may each earn a reward, which has no parts; use grpo"
        )
    if recipe.algorithm.overlong_buffer:
        problems.append(
            "algorithm.overlong_buffer: is taken off before sampling.max_tokens, which bounds one call of an agent and "
            "not its sample; leave it out"
        )
    return problems
