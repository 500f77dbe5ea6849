"""Sources of tasks that cannot be mixed."""

from penstock.recipes.choices import advantage_choice
from penstock.recipes.recipe import Recipe


def check_mixture(recipe: Recipe) -> list[str]:
    """Sources that share a name, a teacher or a critic that not all of them have, and methods that read rows."""
    if not recipe.mixture:
        return []
    problems = []
    names = [next(iter(recipe.sources)), *(source.name for source in recipe.mixture)]
    for i, name in enumerate(names):
        if name in names[:i]:
            problems.append(f"mixture.{i - 1}.name: {name!r} is another source's name already; take a new one")
    if not recipe.rolls_out:
        problems.append(
            f"mixture: is for samples drawn from the policy; algorithm.name {recipe.algorithm.name} reads data.train "
            "alone: join the files instead"
        )
    if any(advantage_choice(r.algorithm.advantage).needs == "teacher" for r in recipe.sources.values()):
        problems.append("mixture: a teacher judges all sources or none; opd is not mixed with other advantages")
    served = {**recipe.reward_models, **recipe.judges}
    models = [(w.name, w.model or w.judge) for r in recipe.sources.values() for w in r.rewards()]
    for name in sorted({name for name, model in models if model is not None and model != served[name]}):
        problems.append(f"mixture: the reward {name!r} names two models; give each a name of its own")
    if any(r.has_critic != recipe.has_critic for r in recipe.sources.values()):
        problems.append("mixture: a critic values all sources or none; gae is not mixed with other advantages")
    return problems
