"""Contradictions between a recipe's sections, each as one sentence that names the keys and the nearest way out."""

import difflib
import glob
import json
import os
import pathlib

from penstock.recipes import memory
from penstock.recipes.recipe import Recipe
from penstock.recipes.sections import Curriculum, Parallel
from penstock.recipes.shapes import MEGATRON, Shapes, architecture, read_shapes
from penstock.telemetry import steps

LOSSES = ("ppo_clip", "cispo", "gspo", "reinforce", "sapo", "dppo", "dro")
CORRECTIONS = ("none", "tis", "icepop", "mis_token", "mis_sequence", "seq_mask_tis", "opsm", "m2po")
ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "batch_norm", "maxrl", "gdpo", "opd", "gae")
PREFERENCE_LOSSES = ("sigmoid", "robust", "hinge", "ipo", "length_normalised", "simpo", "orpo", "kto")
# Losses that bound the step by themselves when the data is off-policy.
TRUST_REGIONS = ("ppo_clip", "gspo", "sapo")
# Losses that are taken against the behaviour policy itself; a correction would correct twice.
BEHAVIOUR_LOSSES = ("dppo", "dro")


def check(recipe: Recipe) -> list[str]:
    """Everything that contradicts itself; empty if the recipe can be run."""
    problems = [
        *_telemetry(recipe),
        *_optimizer(recipe),
        *_parallel(recipe),
        *_adapters(recipe),
        *_offload(recipe),
        *_mixture(recipe),
    ]
    own, *others = ([*_algorithm(r), *_data(r), *_generation(r)] for r in recipe.sources.values())
    further = [f"mixture.{i}: {problem}" for i, found in enumerate(others) for problem in found if problem not in own]
    return [*problems, *own, *further]


def _telemetry(recipe: Recipe) -> list[str]:
    problems = []
    for i, alert in enumerate(recipe.telemetry.alerts):
        metric = steps.find(alert.metric)
        if metric is None or not metric.reported:
            near = steps.nearest(alert.metric)
            problems.append(f"telemetry.alerts.{i}: {alert.metric!r} is no metric of a step; did you mean {near!r}?")
        if (alert.above is None) == (alert.below is None):
            problems.append(f"telemetry.alerts.{i}: {alert.metric!r} needs exactly one of above and below")
    return problems


def _offload(recipe: Recipe) -> list[str]:
    if "reference" not in recipe.learner.offload:
        return []
    left = "; leave 'reference' out"
    if recipe.learner.lora is not None:
        return [f"learner.offload: with learner.lora the frozen model is its own reference, and nothing is kept{left}"]
    if not recipe.compares_with_reference:
        return [f"learner.offload: the method compares with no reference, so none is kept{left}"]
    return []


def _optimizer(recipe: Recipe) -> list[str]:
    learner, problems = recipe.learner, []
    if learner.optimizer.name == "muon" and learner.lora is not None:
        problems.append(
            "learner.optimizer.name: muon makes the step of a whole matrix orthogonal, and learner.lora trains two "
            "factors of one; use adamw"
        )
    if learner.optimizer.name == "muon" and "optimizer" in learner.offload:
        problems.append(
            "learner.offload: the state of adamw alone can be kept on the host; leave 'optimizer' out, or use "
            "learner.optimizer.name=adamw"
        )
    return problems


def _mixture(recipe: Recipe) -> list[str]:
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
    if recipe.algorithm.advantage == "opd" or any(source.advantage == "opd" for source in recipe.mixture):
        problems.append("mixture: a teacher judges all sources or none; opd is not mixed with other advantages")
    models = [(w.name, w.model) for r in recipe.sources.values() for w in r.rewards() if w.model is not None]
    for name in sorted({name for name, model in models if (name, model) != (name, recipe.reward_models[name])}):
        problems.append(f"mixture: the reward {name!r} names two models; give each a name of its own")
    if any(r.has_critic != recipe.has_critic for r in recipe.sources.values()):
        problems.append("mixture: a critic values all sources or none; gae is not mixed with other advantages")
    return problems


def _parallel(recipe: Recipe) -> list[str]:
    p, ranks = recipe.learner.parallel, recipe.learner.ranks
    if recipe.learner.backend == "transformers":
        return _on_transformers(recipe) or memory.problems(recipe)
    found = architecture(recipe.model.path)
    if found is not None and recipe.trains_reward_model:
        found = found.replace("ForSequenceClassification", "ForCausalLM")  # its trunk is the same
    if found is not None and found not in MEGATRON and recipe.mode != "evaluate":
        return [
            f"learner.backend: megatron does not train {found}, only {', '.join(MEGATRON)}; use learner.backend="
            "transformers"
        ]
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
    if p.context_attention == "ulysses":
        problems += _ulysses(p, shapes)
    if shapes is not None:
        problems += _experts(recipe, shapes)
        problems += shapes.indivisible(p.tensor, p.pipeline, p.virtual_stages)
    return problems or memory.problems(recipe)


def _ulysses(p: Parallel, shapes: Shapes | None) -> list[str]:
    """Context ranks share out the query heads that a tensor rank has."""
    if p.context == 1:
        return ["learner.parallel.context_attention: ulysses needs learner.parallel.context > 1 (it is 1)"]
    if shapes is None or shapes.shares_heads(p.tensor, p.context):
        return []
    heads = shapes.heads // p.tensor
    nearest = max(n for n in range(1, p.context) if heads % n == 0)
    return [
        f"learner.parallel.context: {p.context} ranks cannot share out the {heads} heads of a tensor rank, as "
        f"context_attention=ulysses does; the nearest valid value is {nearest}, or use context_attention=gather"
    ]


def _experts(recipe: Recipe, shapes: Shapes) -> list[str]:
    """Experts are shared out whole, over ranks that are tensor, context and data ranks too, and have no adapters."""
    p, ranks, lora = recipe.learner.parallel, recipe.learner.ranks, recipe.learner.lora
    key = "learner.parallel.expert"
    if not shapes.experts:
        return [f"{key}: {p.expert} is for a mixture of experts, and the model is dense; use 1"] if p.expert > 1 else []
    found = []
    if shapes.experts % p.expert:
        found.append(f"{key}: {p.expert} does not divide the model's num_experts, {shapes.experts}")
    if (ranks // p.pipeline) % p.expert:
        found.append(f"{key}: {p.expert} does not divide the ranks of a pipeline stage, {ranks // p.pipeline}")
    if p.tensor > 1 and (p.expert == 1 or not p.sequence_parallel):
        found.append(
            f"learner.parallel.tensor: {p.tensor} with experts needs sequence_parallel=true and expert > 1 "
            f"(they are {str(p.sequence_parallel).lower()} and {p.expert}); use {key}={p.tensor}"
        )
    theirs = [target for target in ("gate_up", "down") if lora is not None and target in lora.targets]
    if theirs:
        found.append(f"learner.lora.targets: {', '.join(theirs)} are experts, which have no adapters; use qkv, output")
    return found


def _adapters(recipe: Recipe) -> list[str]:
    lora = recipe.learner.lora
    if lora is None or lora.publish == "merged" or not recipe.trains_reward_model:
        return []
    return ["learner.lora.publish: a reward model's score is trained whole beside its adapters; use merged"]


def _on_transformers(recipe: Recipe) -> list[str]:
    """What the transformers backend does not have: it spreads over data and tensor ranks alone."""
    learner, p, plain = recipe.learner, recipe.learner.parallel, Parallel()
    if p.overlap:
        return ["learner.parallel.overlap: backend transformers always overlaps (FSDP2), and cannot be told; use false"]
    found = [
        f"learner.parallel.{key}: {value} needs learner.backend=megatron; backend transformers has data and tensor "
        f"ranks alone, so use {getattr(plain, key)}"
        for key, value in p
        if value != getattr(plain, key) and key != "tensor"
    ]
    if learner.ranks % p.tensor:
        nearest = max(p.tensor, learner.ranks // p.tensor * p.tensor)
        found.append(
            f"learner.ranks: {learner.ranks} is not a multiple of learner.parallel.tensor = {p.tensor}; the nearest "
            f"valid value is {nearest}"
        )
    if p.tensor > 1 and learner.lora is not None:
        found.append(
            f"learner.parallel.tensor: {p.tensor} with learner.lora needs learner.backend=megatron; backend "
            "transformers has no adapters on matrices that are cut, so use 1"
        )
    shapes = read_shapes(recipe.model.path)
    if shapes is not None:
        found += shapes.indivisible(p.tensor, 1)
        if shapes.kv_heads % p.tensor and p.tensor % shapes.kv_heads == 0:
            found.append(
                f"learner.parallel.tensor: {p.tensor} does not divide the model's num_key_value_heads, "
                f"{shapes.kv_heads}; on backend transformers it must"
            )
    return found


def _algorithm(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, []
    if a.name == "grpo":
        problems += _policy_gradient(recipe)
    elif a.name == "dpo":
        problems += _preference(recipe)
    elif a.name == "reward_model":
        problems += _reward_model(recipe)
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
    for key, value, known in (
        ("algorithm.loss.name", a.loss.name, LOSSES),
        ("algorithm.loss.correction", a.loss.correction, CORRECTIONS),
        ("algorithm.advantage", a.advantage, ADVANTAGES),
    ):
        problems += [] if recipe.plugins else _known(key, value, known)  # the learner knows what plugins register
    if a.loss.name == "gspo" and a.loss.normalisation != "sequence":
        problems.append(
            f"algorithm.loss.normalisation: gspo is defined per sequence; {a.loss.normalisation!r} must be 'sequence'"
        )
    if a.loss.name in BEHAVIOUR_LOSSES and a.loss.correction != "none":
        problems.append(
            f"algorithm.loss.correction: {a.loss.name} is taken against the behaviour policy itself, so "
            f"{a.loss.correction!r} would correct twice; use 'none'"
        )
    if a.loss.name == "dro" and a.loss.beta is None:
        problems.append("algorithm.loss.beta: is required for dro, which has no usual value")
    if a.loss.proximal == "interpolate" and a.loss.mini_batches == 1:
        problems.append(
            "algorithm.loss.proximal: interpolate saves a forward pass only where algorithm.loss.mini_batches > 1; "
            "with 1 'recompute' is exact and costs none"
        )
    if a.loss.proximal == "interpolate" and a.loss.correction == "m2po":
        problems.append("algorithm.loss.proximal: m2po sees the whole batch before the step; use 'recompute'")
    if a.group_size < 2 and not recipe.has_critic:
        problems.append("algorithm.group_size: 1 gives no baseline; grpo needs at least 2")
    if recipe.has_critic:
        problems += _critic(recipe)
    if (a.advantage == "opd") != (recipe.teacher is not None):
        problems.append("teacher: is required for algorithm.advantage opd, and is used by nothing else")
    if a.advantage == "gdpo" and len(recipe.rewards()) < 2:
        problems.append("algorithm.advantage: gdpo needs at least two environment.rewards; with one use 'grpo'")
    if a.advantage == "gdpo" and a.overlong_buffer:
        problems.append("algorithm.overlong_buffer: gdpo takes the reward apart; make length one of its parts")
    if a.advantage == "gdpo" and a.truncated_scale != 1:
        problems.append("algorithm.truncated_scale: gdpo takes the reward apart; make being cut off one of its parts")
    if a.loss.mismatch_limit is not None and recipe.teacher is not None and recipe.teacher.top:
        problems.append(
            "algorithm.loss.mismatch_limit: with teacher.top the loss has no ratio to the engine; leave it out"
        )
    corrected = a.loss.correction != "none" and a.loss.proximal != "behaviour"
    trusted = a.loss.name in TRUST_REGIONS and a.loss.proximal == "behaviour"
    bounded = corrected or trusted or a.loss.name in BEHAVIOUR_LOSSES
    if recipe.staleness.max_versions and not (bounded or recipe.staleness.allow_uncorrected):
        problems.append(
            "algorithm.loss: an asynchronous run (staleness.max_versions > 0) with neither an off-policy "
            "correction nor a trust region is biased; set algorithm.loss.correction=tis, or "
            "staleness.allow_uncorrected=true"
        )
    return problems


def _critic(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, []
    if a.critic.path is not None:
        problems += _model("algorithm.critic.path", a.critic.path)
        own, other = _vocabulary(recipe.model.path), _vocabulary(a.critic.path)
        if own != other:
            problems.append(f"algorithm.critic.path: its vocabulary has {other} tokens, that of model.path {own}")
    if a.critic.warmup_steps >= a.steps:
        problems.append(
            f"algorithm.critic.warmup_steps: {a.critic.warmup_steps} of {a.steps} steps leave none for the policy"
        )
    if a.group_size < 2 and a.filters.zero_variance:
        problems.append("algorithm.filters.zero_variance: one answer has no variance; every group would be dropped")
    if a.advantage_clip is not None:
        problems.append("algorithm.advantage_clip: a critic's advantages are whitened in the learner; leave it out")
    if a.loss.kl.coefficient and a.loss.kl.place == "reward":
        problems.append("algorithm.loss.kl.place: 'reward' takes the penalty off group baselines; with gae use 'loss'")
    return problems


def _preference(recipe: Recipe) -> list[str]:
    a, p = recipe.algorithm, recipe.algorithm.preference
    problems = _known("algorithm.preference.loss", p.loss, PREFERENCE_LOSSES)
    unpaired = p.loss == "kto"
    if not unpaired and a.group_size < 2 * p.pairs_per_group:
        problems.append(
            f"algorithm.group_size: {a.group_size} answers make {a.group_size // 2} pairs, "
            f"algorithm.preference.pairs_per_group wants {p.pairs_per_group}; use {2 * p.pairs_per_group} or more"
        )
    if p.label_smoothing and p.loss not in ("sigmoid", "robust"):
        problems.append(f"algorithm.preference.label_smoothing: {p.loss} has none; use sigmoid or robust, or 0")
    if p.importance_cap is not None and (unpaired or p.source == "dataset" or recipe.sampling.temperature != 1):
        problems.append(
            "algorithm.preference.importance_cap: weighs pairs that the policy drew at sampling.temperature 1; leave "
            "it out for kto, for a dataset and at other temperatures"
        )
    if a.loss.mini_batches > 1:
        problems.append("algorithm.loss.mini_batches: a preference batch is one optimizer step; use 1")
    return problems


def _reward_model(recipe: Recipe) -> list[str]:
    a, problems = recipe.algorithm, []
    if a.group_size < 2:
        problems.append("algorithm.group_size: 1 answer is ranked against none; use the number of answers in a row")
    if a.loss.mini_batches > 1:
        problems.append("algorithm.loss.mini_batches: a batch of ranked answers is one optimizer step; use 1")
    if recipe.environment is not None:
        problems.append("environment: a reward model writes no answers to be scored; leave it out")
    return problems


def _known(key: str, value: str, known: tuple[str, ...]) -> list[str]:
    if value in known:
        return []
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
    return [f"{key}: {value!r} is not one of {', '.join(known)}; did you mean {near[0]!r}?"]


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
    for reward in recipe.rewards():
        if reward.address is not None and reward.model is not None:
            problems.append(f"environment.rewards {reward.name}: has both address and model; leave one out")
        if reward.model is not None:
            problems += _model(f"environment.rewards {reward.name}: model.path", reward.model.path)
            if recipe.reward_models[reward.name] != reward.model:
                problems.append(f"environment.rewards {reward.name}: names two models; give each a name of its own")
    if recipe.evaluation.reward is not None:
        problems += _known("evaluation.reward", recipe.evaluation.reward, tuple(names))
    if recipe.environment is not None and recipe.environment.multi_turn and recipe.environment.rewards:
        problems.append("environment.rewards: a multi_turn environment gives the reward itself; leave the list empty")
    return problems


def _data(recipe: Recipe) -> list[str]:
    problems = [f"plugins: no file {p!r}" for p in recipe.plugins if p.endswith(".py") and not os.path.isfile(p)]
    for key, path in (("data.train", recipe.data.train), ("data.eval", recipe.data.eval)):
        if path is not None and not os.path.exists(path) and not glob.glob(path):
            problems.append(f"{key}: no file {path!r}")
    problems += _model("model.path", recipe.model.path)
    if recipe.teacher is not None:
        problems += _model("teacher.path", recipe.teacher.path)
        own, other = _vocabulary(recipe.model.path), _vocabulary(recipe.teacher.path)
        if own != other:
            problems.append(f"teacher.path: its vocabulary has {other} tokens, that of model.path {own}")
    return problems


def _model(key: str, path: str) -> list[str]:
    if not os.path.isdir(path):
        return [f"{key}: no directory {path!r}"]
    if not os.path.isfile(os.path.join(path, "config.json")):
        return [f"{key}: {path!r} is not a Hugging Face model directory (no config.json in it)"]
    return []


def _vocabulary(path: str) -> object:
    """A model's number of tokens; None where its directory does not say."""
    try:
        return json.loads(pathlib.Path(path, "config.json").read_text()).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None


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
