"""What is optimised: choices that contradict each other, the data or the sampling."""

from collections.abc import Callable, Mapping

from penstock.recipes.checks.names import unknown_name
from penstock.recipes.checks.paths import model_problems, vocabulary
from penstock.recipes.checks.rewards import served_problems
from penstock.recipes.choices import (
    ADVANTAGES,
    CORRECTIONS,
    KL_ESTIMATORS,
    LOSSES,
    NORMALISATIONS,
    PREFERENCES,
    advantage_choice,
    correction_choice,
    loss_choice,
    preference_choice,
)
from penstock.recipes.recipe import Recipe
from penstock.recipes.said import said_of
from penstock.recipes.sections import Curriculum, PairLoss
from penstock.recipes.uses import listed


def check_algorithm(recipe: Recipe) -> list[str]:
    """Choices of the algorithm, and of what its method asks of data and sampling, that contradict each other."""
    a, problems = recipe.algorithm, CHECKS[recipe.method.name](recipe)
    if not recipe.plugins:
        problems += unknown_name("algorithm.loss.normalisation", a.loss.normalisation, NORMALISATIONS)
    if not recipe.rolls_out and recipe.data.curriculum != Curriculum():
        problems.append(
            f"data.curriculum: chooses rows by how the policy was rewarded on them; algorithm.name {a.name} draws no "
            "samples here: leave it out"
        )
    if recipe.rolls_out:
        if recipe.environment is None:
            problems.append(f"environment: is required for algorithm.name {a.name} (who scores the samples?)")
        problems += _sampling(recipe)
    f = a.filters
    if f.pass_rate_min >= f.pass_rate_max:
        problems.append(
            f"algorithm.filters: pass_rate_min {f.pass_rate_min} must be below pass_rate_max {f.pass_rate_max}"
        )
    if a.overlong_buffer > recipe.sampling.max_tokens:
        problems.append(
            f"algorithm.overlong_buffer: {a.overlong_buffer} is more than sampling.max_tokens "
            f"{recipe.sampling.max_tokens}"
        )
    if recipe.evaluation.target_loss is not None and not recipe.validates:
        problems.append(
            "evaluation.target_loss: is for sft, dpo and reward_model on rows with data.eval and no environment; "
            "where tasks are played use target_reward"
        )
    if recipe.evaluation.target_reward is not None and recipe.validates:
        problems.append("evaluation.target_reward: nothing is played here; use target_loss")
    if recipe.mode == "evaluate" and not recipe.evaluates:
        problems.append("data.eval and environment: are both required to evaluate")
    return problems


def _policy_gradient(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, []
    loss, advantage = loss_choice(a.loss.name), advantage_choice(a.advantage)
    for key, value, known in (
        ("algorithm.loss.name", a.loss.name, LOSSES),
        ("algorithm.loss.correction", a.loss.correction, CORRECTIONS),
        ("algorithm.advantage", a.advantage, ADVANTAGES),
        ("algorithm.loss.kl.estimator", a.loss.kl.estimator, KL_ESTIMATORS),
    ):
        problems += [] if recipe.plugins else unknown_name(key, value, known)  # the learner knows what plugins register
    if loss.behaviour and a.loss.correction != "none":
        problems.append(
            f"algorithm.loss.correction: {a.loss.name} is taken against the behaviour policy itself, so "
            f"{a.loss.correction!r} would correct twice; use 'none'"
        )
    if a.loss.proximal == "behaviour" and a.loss.correction != "none":
        problems.append(
            f"algorithm.loss.correction: with proximal behaviour the ratio is taken against the engine itself, so "
            f"{a.loss.correction!r} would correct twice; use 'none'"
        )
    capped = (
        [] if a.loss.correction == "seq_mask_tis" else [("correction_low", "correction_cap")]
    )  # of two ratios there
    for low, high in (("correction_low", "correction_high"), ("floor", "cap"), *capped):
        least, most = getattr(a.loss, low), getattr(a.loss, high)
        if least is not None and most is not None and least >= most:
            problems.append(f"algorithm.loss.{low}: {least:g} must be below {high} {most:g}")
    for key in a.advantage_settings:
        if a.advantage in ADVANTAGES and advantage.parameters:
            problems += unknown_name("algorithm.advantage_settings", key, advantage.parameters)
    for key in loss.required:
        if getattr(a.loss, key) is None:
            problems.append(f"algorithm.loss.{key}: is required for {a.loss.name}, which has no usual value")
    if a.loss.proximal == "interpolate" and a.loss.mini_batches == 1:
        problems.append(
            "algorithm.loss.proximal: interpolate saves a forward pass only where algorithm.loss.mini_batches > 1; "
            "with 1 'recompute' is exact and costs none"
        )
    whole = correction_choice(a.loss.correction).whole_batch or a.loss.correction_mean_one != "none"
    if a.loss.proximal == "interpolate" and whole:
        problems.append(
            f"algorithm.loss.proximal: {a.loss.correction} sees the whole batch before the step; use 'recompute'"
        )
    reject = a.loss.rejection
    if reject.by != "none" and reject.high is None:
        problems.append(f"algorithm.loss.rejection.high: is required for {reject.by}, which has no usual value")
    elif reject.low is not None and reject.high is not None and reject.low >= reject.high:
        problems.append(f"algorithm.loss.rejection.low: {reject.low:g} must be below high {reject.high:g}")
    if a.group_size < 2 and not advantage.needs:
        problems.append("algorithm.group_size: 1 gives no baseline; grpo needs at least 2")
    if (advantage.needs == "teacher") != (recipe.teacher is not None):
        problems.append("teacher: is required for algorithm.advantage opd, and is used by nothing else")
    if advantage.by_parts and len(recipe.rewards()) < 2:
        problems.append(
            f"algorithm.advantage: {a.advantage} needs at least two environment.rewards; with one use 'grpo'"
        )
    trusted = loss.trust_region and a.loss.proximal == "behaviour"
    bounded = a.loss.correction != "none" or trusted or loss.behaviour
    if recipe.staleness.max_versions and not (bounded or recipe.staleness.allow_uncorrected):
        problems.append(
            "algorithm.loss: an asynchronous run (staleness.max_versions > 0) with neither an off-policy "
            "correction nor a trust region is biased; set algorithm.loss.correction=tis, or "
            "staleness.allow_uncorrected=true"
        )
    return problems


def _critic(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, _policy_gradient(recipe)
    if a.critic.path is not None:
        problems += model_problems("algorithm.critic.path", a.critic.path)
        own, other = vocabulary(recipe.model.path), vocabulary(a.critic.path)
        if own != other:
            problems.append(f"algorithm.critic.path: its vocabulary has {other} tokens, that of model.path {own}")
    if recipe.mode == "train" and a.critic.warmup_steps >= a.steps:
        problems.append(
            f"algorithm.critic.warmup_steps: {a.critic.warmup_steps} of {a.steps} steps leave none for the policy"
        )
    if a.group_size < 2 and a.filters.zero_variance:
        problems.append("algorithm.filters.zero_variance: one answer has no variance; every group would be dropped")
    if a.loss.kl.coefficient and a.loss.kl.place == "reward":
        problems.append("algorithm.loss.kl.place: 'reward' takes the penalty off group baselines; with gae use 'loss'")
    return problems


def _preference(recipe: Recipe) -> list[str]:
    a, p = recipe.algorithm, recipe.algorithm.preference
    problems = [] if recipe.plugins else unknown_name("algorithm.preference.loss", p.loss, PREFERENCES)
    choice = preference_choice(p.loss)
    for i, each in enumerate(p.more):
        problems += _further_loss(f"algorithm.preference.more.{i}", each, bool(recipe.plugins))
    if p.more and not choice.paired:
        problems.append(
            f"algorithm.preference.more: {p.loss} takes single answers and is no term of a sum; leave it out"
        )
    if p.divergence == "alpha" and p.divergence_order is None:
        problems.append("algorithm.preference.divergence_order: is required for divergence alpha; .5 is usual")
    if any(each.loss == "exo" and not each.label_smoothing for each in p.losses):
        problems.append("algorithm.preference.label_smoothing: exo needs more than 0; 1e-3 is usual")
    unpaired = not choice.paired
    if not unpaired and a.group_size < 2 * p.pairs_per_group:
        problems.append(
            f"algorithm.group_size: {a.group_size} answers make {a.group_size // 2} pairs, "
            f"algorithm.preference.pairs_per_group wants {p.pairs_per_group}; use {2 * p.pairs_per_group} or more"
        )
    if unpaired and a.groups_per_step < 2:
        problems.append(
            f"algorithm.groups_per_step: {p.loss} estimates its baseline from answers to other prompts; use 2 or more"
        )
    return problems


def _further_loss(key: str, loss: PairLoss, plugins: bool) -> list[str]:
    choice, own = preference_choice(loss.loss), loss.loss not in PREFERENCES
    known = [name for name, c in PREFERENCES.items() if c.paired]
    problems = [] if own and plugins else unknown_name(f"{key}.loss", loss.loss, known)
    read = ("loss", "weight", *choice.parameters, *(["settings"] if own else []))
    unread = [name for name, _ in said_of(loss) if name not in read]
    return problems or [f"{key}.{n}: {loss.loss} does not use it; it uses {listed(choice.parameters)}" for n in unread]


def _reward_model(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, []
    if a.group_size < 2:
        problems.append("algorithm.group_size: 1 answer is ranked against none; use the number of answers in a row")
    if recipe.environment is not None:
        problems.append("environment: a reward model writes no answers to be scored; leave it out")
    return problems


def _sampling(recipe: Recipe) -> list[str]:
    """Training needs the probability of what was drawn; the learner computes it for temperature alone."""
    s, problems = recipe.sampling, []
    if s.temperature == 0:
        problems.append("sampling.temperature: 0 (greedy) explores nothing and has no log-probabilities; use 1.0")
    if s.top_p < 1 or s.top_k:
        problems.append(
            f"sampling: top_p {s.top_p} and top_k {s.top_k} cut the distribution that the learner compares with, which "
            "biases ratio and correction; use top_p 1.0 and top_k 0"
        )
    names = [reward.name for reward in recipe.rewards()]
    problems += served_problems(recipe)
    if recipe.evaluation.reward is not None:
        problems += unknown_name("evaluation.reward", recipe.evaluation.reward, tuple(names))
    return problems


CHECKS: Mapping[str, Callable[[Recipe], list[str]]] = {
    "supervised": lambda recipe: [],
    "reward_model": _reward_model,
    "preference": _preference,
    "critic": _critic,
    "distillation": _policy_gradient,
    "policy_gradient": _policy_gradient,
}
"""By the name of the recipe's method: a row for each of penstock.recipes.methods."""
