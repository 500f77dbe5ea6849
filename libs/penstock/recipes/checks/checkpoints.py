"""Checkpoints kept by a metric that nothing reports, or that is never measured."""

from penstock.recipes.recipe import Recipe
from penstock.telemetry import steps


def check_checkpoints(recipe: Recipe) -> list[str]:
    """One sentence where `learner.checkpoints.metric` can have no value; empty if no checkpoint is kept by it."""
    wanted = recipe.learner.checkpoints.metric
    if not recipe.learner.checkpoints.keep_best:
        return []
    key, known = f"learner.checkpoints.metric: {wanted!r}", steps.find(wanted)
    if known is None or not known.reported:
        return [f"{key} is no metric of a step; did you mean {steps.nearest(wanted)!r}?"]
    if wanted.startswith(steps.REWARDS) and recipe.method.name == "supervised":
        return [f"{key} is of rewards, and demonstrations have none; use 'rl.loss' or 'rl.validation.loss', smaller"]
    if not wanted.startswith(steps.VALIDATION):
        return []
    if not recipe.validates:
        return [
            f"{key} is of held-out rows that the learner measures: of sft, dpo and reward_model on rows, with "
            "data.eval and no environment"
        ]
    measured = [steps.VALIDATION + name for name in recipe.method.measures(recipe.algorithm)]
    if wanted not in measured:
        return [f"{key} is not measured by algorithm.name {recipe.algorithm.name}; there are {', '.join(measured)}"]
    if not recipe.evaluation.every:
        return [f"{key} is measured at the end alone; set evaluation.every"]
    return []
