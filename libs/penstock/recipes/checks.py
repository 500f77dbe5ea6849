"""Contradictions between a recipe's sections, each as one sentence that names the keys and the nearest way out."""

import os

from penstock.recipes import memory
from penstock.recipes.recipe import Recipe
from penstock.recipes.shapes import read_shapes

LOSSES = ("ppo_clip", "cispo", "gspo", "reinforce")
CORRECTIONS = ("none", "tis", "icepop", "mis_token", "mis_sequence", "seq_mask_tis")
ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "batch_norm", "maxrl")
# Losses that bound the step by themselves when the data is off-policy.
TRUST_REGIONS = ("ppo_clip", "gspo")


def check(recipe: Recipe) -> list[str]:
    """Everything that contradicts itself; empty if the recipe can be run."""
    return [*_parallel(recipe), *_algorithm(recipe), *_data(recipe), *_generation(recipe)]


def _parallel(recipe: Recipe) -> list[str]:
    p, ranks = recipe.learner.parallel, recipe.learner.ranks
    size = p.tensor * p.pipeline * p.context
    problems = []
    if ranks % size:
        problems.append(
            f"learner.ranks: {ranks} is not a multiple of learner.parallel tensor x pipeline x context = "
            f"{p.tensor} x {p.pipeline} x {p.context} = {size}; "
            f"the nearest valid value is {max(size, ranks // size * size)}"
        )
    if p.sequence_parallel and p.tensor == 1:
        problems.append("learner.parallel.sequence_parallel: needs learner.parallel.tensor > 1 (it is 1)")
    if p.virtual_stages > 1 and p.pipeline == 1:
        problems.append("learner.parallel.virtual_stages: needs learner.parallel.pipeline > 1 (it is 1)")
    shapes = read_shapes(recipe.model.path)
    if shapes is not None:
        problems += shapes.indivisible(p.tensor, p.pipeline, p.virtual_stages)
    return problems or memory.problems(recipe)


def _algorithm(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, []
    if a.name == "grpo":
        if recipe.environment is None:
            problems.append("environment: is required for algorithm.name grpo (who scores the samples?)")
        for key, value, known in (
            ("algorithm.loss.name", a.loss.name, LOSSES),
            ("algorithm.loss.correction", a.loss.correction, CORRECTIONS),
            ("algorithm.advantage", a.advantage, ADVANTAGES),
        ):
            if value not in known:
                problems.append(f"{key}: {value!r} is not one of {', '.join(known)}")
        if a.loss.name == "gspo" and a.loss.normalisation != "sequence":
            problems.append(
                f"algorithm.loss.normalisation: gspo is defined per sequence; "
                f"{a.loss.normalisation!r} must be 'sequence'"
            )
        problems += _sampling(recipe)
        if a.group_size < 2:
            problems.append("algorithm.group_size: 1 gives no baseline; grpo needs at least 2")
        corrected = a.loss.correction != "none" and a.loss.proximal == "recompute"
        trusted = a.loss.name in TRUST_REGIONS and a.loss.proximal == "behaviour"
        if recipe.staleness.max_versions and not (corrected or trusted or recipe.staleness.allow_uncorrected):
            problems.append(
                "algorithm.loss: an asynchronous run (staleness.max_versions > 0) with neither an off-policy "
                "correction nor a trust region is biased; set algorithm.loss.correction=tis, or "
                "staleness.allow_uncorrected=true"
            )
    f = a.filters
    if f.pass_rate_min >= f.pass_rate_max:
        problems.append(
            f"algorithm.filters: pass_rate_min {f.pass_rate_min} must be below pass_rate_max {f.pass_rate_max}"
        )
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
    if recipe.environment is not None and recipe.environment.multi_turn and recipe.environment.rewards:
        problems.append("environment.rewards: a multi_turn environment gives the reward itself; leave the list empty")
    return problems


def _data(recipe: Recipe) -> list[str]:
    problems = []
    for key, path in (("data.train", recipe.data.train), ("data.eval", recipe.data.eval)):
        if path is not None and not os.path.isfile(path):
            problems.append(f"{key}: no file {path!r}")
    model = recipe.model.path
    if not os.path.isdir(model):
        problems.append(f"model.path: no directory {model!r}")
    elif not os.path.isfile(os.path.join(model, "config.json")):
        problems.append(f"model.path: {model!r} is not a Hugging Face model directory (no config.json in it)")
    return problems


def _generation(recipe: Recipe) -> list[str]:
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
