"""The learner's layout: ranks, parallel sizes, adapters, optimizer and offload, with the nearest size that would do."""

from penstock.memory_plan import MEGATRON, Shapes, architecture, mixture_of, read_shapes
from penstock.recipes.checks.memory import check_memory
from penstock.recipes.recipe import Recipe
from penstock.recipes.routing import KEY, cannot_replay
from penstock.recipes.sections import Parallel


def check_layout(recipe: Recipe) -> list[str]:
    """What the learner cannot be laid out as; the layout itself first."""
    return [
        *_optimizer(recipe),
        *_parallel(recipe),
        *_adapters(recipe),
        *_offload(recipe),
        *_router(recipe),
        *_replay(recipe),
        *_devices(recipe),
    ]


def _devices(recipe: Recipe) -> list[str]:
    """Ranks of each node, and GPUs that are named: one for each of them, and whole replicas of an engine."""
    found, learner, g = [], recipe.learner, recipe.generation
    for key, named in (("learner", learner.devices), ("generation", g.devices)):
        if named is not None and len(set(named)) < len(named):
            found.append(f"{key}.devices: {', '.join(map(str, named))} names a GPU twice")
    if learner.ranks % learner.nodes:
        nearest = max(learner.nodes, learner.ranks // learner.nodes * learner.nodes)
        found.append(
            f"learner.ranks: {learner.ranks} ranks cannot be shared out equally over {learner.nodes} nodes "
            f"(learner.nodes); the nearest valid value is {nearest}"
        )
    here = max(1, learner.ranks // learner.nodes)
    if learner.devices is not None and len(learner.devices) != here:
        which = "learner.ranks" if learner.nodes == 1 else "learner.ranks / learner.nodes"
        found.append(f"learner.devices: {len(learner.devices)} GPUs for {here} ranks ({which}); name one each")
    if g.devices is not None and len(g.devices) != g.tensor * g.replicas:
        found.append(
            f"generation.devices: {len(g.devices)} GPUs for {g.replicas} replicas of {g.tensor} (generation.replicas, "
            f"generation.tensor); name {g.tensor * g.replicas}, or leave it out"
        )
    return found


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
    o, steps = learner.optimizer, recipe.steps
    if recipe.mode != "train":
        return problems  # a replay has the schedule of the run it repeats, whose steps it may be short of
    if o.warmup_steps >= steps:
        problems.append(
            f"learner.optimizer.warmup_steps: {o.warmup_steps} of {steps} steps never reach learning_rate; use fewer"
        )
    elif o.schedule == "wsd" and o.warmup_steps + (o.decay_steps or 1) > steps:
        problems.append(
            f"learner.optimizer.decay_steps: {o.decay_steps or 1} and {o.warmup_steps} of warm-up are more than "
            f"algorithm.steps {steps}"
        )
    return problems


def _parallel(recipe: Recipe) -> list[str]:
    p, ranks = recipe.learner.parallel, recipe.learner.ranks
    if recipe.learner.backend == "transformers":
        return _on_transformers(recipe) or check_memory(recipe)
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
    return problems or check_memory(recipe)


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
    if experts := mixture_of(recipe.model.path):
        found.append(
            f"learner.backend: transformers does not train mixtures of experts, and {recipe.model.path} has {experts} "
            f"experts; backend megatron trains {', '.join(each for each in MEGATRON if 'Moe' in each)}"
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


def _adapters(recipe: Recipe) -> list[str]:
    lora = recipe.learner.lora
    if lora is not None and recipe.algorithm.reference.sync_every is not None:
        return [
            "algorithm.reference.sync_every: with learner.lora the reference is the model without adapters, "
            "which cannot "
            "follow them; leave it out"
        ]
    if lora is None or lora.publish == "merged" or not recipe.trains_reward_model:
        return []
    return ["learner.lora.publish: a reward model's score is trained whole beside its adapters; use merged"]


def _router(recipe: Recipe) -> list[str]:
    """A router's balance is judged over sequences that a rank has whole."""
    if not recipe.algorithm.router_coefficient:
        return []
    key, p, shapes = "algorithm.router_coefficient", recipe.learner.parallel, read_shapes(recipe.model.path)
    problems = []
    if recipe.learner.backend == "transformers":
        problems.append(f"{key}: backend transformers does not know a model's routers; use learner.backend=megatron")
    if shapes is not None and not shapes.experts:
        problems.append(f"{key}: {recipe.model.path} is no mixture of experts; leave it out")
    if recipe.learner.lora is not None:
        problems.append(f"{key}: with learner.lora the routers are frozen; leave it out")
    for name, size in (("tensor", p.tensor), ("context", p.context)):
        if size > 1:
            problems.append(f"{key}: needs whole sequences on a rank; use learner.parallel.{name}=1 (it is {size})")
    if p.pipeline > 1 and recipe.learner.recompute == "full":
        problems.append(f"{key}: with learner.parallel.pipeline > 1 use learner.recompute=selective or none")
    return problems


def _replay(recipe: Recipe) -> list[str]:
    """Routes that nobody records, or nobody can follow."""
    if not recipe.learner.routing_replay:
        return []
    if problem := cannot_replay(recipe):
        return [f"{KEY}: {problem}"]
    shapes, room = read_shapes(recipe.model.path), recipe.limits.log_bytes
    if shapes is None or recipe.mode == "evaluate":
        return []
    samples = recipe.groups_budget * recipe.algorithm.group_size
    most = samples * recipe.generation.max_context * shapes.route_bytes
    if most <= room:
        return []
    return [
        f"{KEY}: the {samples:,} samples that may be in flight have up to {most:,} bytes of routes, and "
        f"limits.log_bytes is {room:,}; use limits.log_bytes={most} or more, or {KEY}=false"
    ]


def _offload(recipe: Recipe) -> list[str]:
    if "reference" not in recipe.learner.offload:
        return []
    left = "; leave 'reference' out"
    if recipe.learner.lora is not None:
        return [f"learner.offload: with learner.lora the frozen model is its own reference, and nothing is kept{left}"]
    if not recipe.compares_with_reference:
        return [f"learner.offload: the method compares with no reference, so none is kept{left}"]
    return []
