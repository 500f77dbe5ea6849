"""Lengths that leave no room."""

from penstock.recipes.recipe import Recipe


def check_generation(recipe: Recipe) -> list[str]:
    """A completion that fits no context, or no micro-batch."""
    problems = []
    if recipe.sampling.max_tokens >= recipe.generation.max_context:
        problems.append(
            f"sampling.max_tokens: {recipe.sampling.max_tokens} leaves no room for a prompt in "
            f"generation.max_context {recipe.generation.max_context}"
        )
    budget, longest = recipe.learner.micro_batch_tokens, recipe.generation.max_context
    if recipe.rolls_out and budget < longest:
        problems.append(
            f"learner.micro_batch_tokens: {budget} cannot hold one sample of generation.max_context {longest} (prompt "
            f"and answer); use {longest} or more, or a smaller max_context"
        )
    return problems
