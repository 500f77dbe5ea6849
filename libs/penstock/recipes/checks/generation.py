"""Lengths that leave no room."""

from penstock.recipes.recipe import Recipe


def check_generation(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.sampling.max_tokens >= recipe.generation.max_context:
        problems.append(
            f"sampling.max_tokens: {recipe.sampling.max_tokens} leaves no room for a prompt in "
            f"generation.max_context {recipe.generation.max_context}"
        )
    if recipe.generates and recipe.learner.micro_batch_tokens < recipe.sampling.max_tokens:
        problems.append(
            f"learner.micro_batch_tokens: {recipe.learner.micro_batch_tokens} cannot hold one completion of "
            f"sampling.max_tokens {recipe.sampling.max_tokens}"
        )
    return problems
