"""A trial of versions that nobody could hold."""

from penstock.recipes.recipe import Recipe


def check_canary(recipe: Recipe) -> list[str]:
    """One sentence for each reason why `weight_sync.canary` cannot be; empty if it can, or is not wanted."""
    canary = recipe.canary
    if canary is None:
        return []
    problems, engines = [], recipe.generation.replicas
    if not recipe.evaluates:
        problems.append(
            "weight_sync.canary: versions are tried on held-out tasks, and this run plays none; set data.eval and an "
            "environment, or leave canary away"
        )
    elif canary.replicas > engines:
        problems.append(
            f"weight_sync.canary.replicas: {canary.replicas} of {engines} engines; use {engines} or fewer, or raise "
            "generation.replicas"
        )
    if canary.on_reject == "continue" and not recipe.staleness.max_versions:
        problems.append(
            "weight_sync.canary.on_reject: continue trains on from an older version, which staleness.max_versions 0 "
            "forbids; use 1 or more, or pause"
        )
    return problems
