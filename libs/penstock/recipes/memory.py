"""What one rank of the learner needs in memory, from the model's shapes and the layout: pure arithmetic.

Per number of the rank's parameters: the weight (4 bytes, or 2 in bfloat16 and float16), its fp32 gradient (4), Adam's
two moments (8) and where weights have 2 bytes an fp32 main weight (4); the last two are shared out over data × context
ranks (ZeRO-1).

Activations are what autograd keeps of one micro-batch, for every micro-batch that a pipeline stage has under way: stage
i of p has p − i of them (1F1B), and (p − 1) / v more where v chunks interleave. Per local token and layer, in numbers,
with h hidden, f intermediate, d head dimension, A = heads × d and G = KV heads × d, t tensor ranks and c context ranks:

    6 h                                 two norms: input, normalised, output   (/ t with sequence parallelism)
    (5 f) / t                           gate and up, activated, product
    (4 A + 4 G) / t                     fused QKV, query, key, packing, output
    (2 A + G) / t                       query and key norm (Qwen3)
    k (6 e + h) / t                     in the MLP's place: k experts of e intermediate, and what is sent to them
    4 d                                 rotary embedding
    (2 G c + 2 A (c + ½)) / t           context parallelism: gathered K and V, repeated for every query head
    (2 G (r − 1)) / t                   or, where heads are exchanged: KV heads that are too few, repeated r times

With `learner.optimizer.name: muon` a number of a hidden matrix has a momentum (4) in place of the moments. On Megatron
nothing of the optimizer is shared out then, for Muon needs whole matrices. It gathers these one after the other, when
the activations are gone; not counted, for it is less than they were.

Experts are shared out over expert ranks, and the optimizer's state for them over the ranks that have the same ones.

With adapters (`learner.lora`) gradients, moments and main weights are the adapters' alone. A method that compares with
a reference (KL, most preference losses) keeps the initial weights once more; with adapters the frozen base is that. A
reward model has h numbers in place of the output layer, and no logits; a critic is one beside the policy.

On the transformers backend weights (fp32, the main weights), gradients and moments are all shared out over the ranks
(FSDP2). Gathered at once are the embedding, the output layer and two layers, in the model's type, and the gradient of
the largest of these. A layer keeps 6 h + (4 f + 4 A + 3 G) / t numbers per token, and 2 (A + G) / t for query and key
norm; t tensor ranks share its matrices, and nothing of the embedding and the output layer.

With `recompute: selective` a layer does without 4 h and 3 f (of an expert's 6 e, and what is sent to it, 3 e), on the
transformers backend with 3 h + (2 f + 2 (A + G)) / t and a number per head. With `recompute: full` it keeps its
input alone (h). In both, one layer at a time has all of the above.
`services/learner/backends/planning_test.py` compares this with what autograd really keeps in fp32 on a CPU. A number of
2 bytes is counted as such, as a GPU's kernels have it; on a CPU attention and norms compute in fp32 and keep up to
twice that.

Not counted: the CUDA context, communication buffers, fragmentation (leave a tenth free).
"""

import dataclasses
import math
from dataclasses import dataclass

from penstock.recipes.recipe import Recipe
from penstock.recipes.shapes import Shapes, read_shapes

GIB = 2**30
HEAD_BYTES = 128 * 2**20
"""fp32 logits of one rank that exist at once (the learner's settings.HEAD_BYTES)."""
SLICE = 2**24
"""Numbers whose state is on the device at once in a step, where it lives on the host (the learner's host.SLICE)."""
LEAST_TOKENS = 1024
"""A micro-batch is not advised to be smaller."""
LOGIT_COPIES = 4
"""fp32 [chunk, vocabulary] tensors alive at the peak of the output layer's forward or backward."""


@dataclass(frozen=True)
class Layout:
    """How the learner's model is spread, and what one forward pass holds."""

    tensor: int
    pipeline: int
    context: int
    data: int
    sequence_parallel: bool
    half: bool
    micro_batch_tokens: int
    recompute: bool
    virtual: int = 1
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()
    keeps_reference: bool = False
    scores: bool = False
    fully_sharded: bool = False
    expert: int = 1
    ulysses: bool = False
    selective: bool = False
    offload: tuple[str, ...] = ()
    muon: bool = False

    @staticmethod
    def of(recipe: Recipe) -> "Layout":
        learner = recipe.learner
        p = learner.parallel
        return Layout(
            tensor=p.tensor,
            pipeline=p.pipeline,
            context=p.context,
            data=max(1, learner.ranks // (p.tensor * p.pipeline * p.context)),
            sequence_parallel=p.sequence_parallel,
            half=recipe.model.dtype != "float32",
            micro_batch_tokens=learner.micro_batch_tokens,
            recompute=learner.recompute == "full",
            virtual=p.virtual_stages,
            lora_rank=learner.lora.rank if learner.lora is not None else 0,
            lora_targets=learner.lora.targets if learner.lora is not None else (),
            keeps_reference=recipe.compares_with_reference and learner.lora is None,
            scores=recipe.trains_reward_model,
            fully_sharded=learner.backend == "transformers",
            expert=p.expert,
            ulysses=p.context_attention == "ulysses",
            selective=learner.recompute == "selective",
            offload=learner.offload,
            muon=learner.optimizer.name == "muon",
        )


@dataclass(frozen=True)
class Stage:
    """Bytes of one rank of one pipeline stage; `parameters` and `trained` are counts.

    head: logits of a chunk, and the output layer's working copies. gathered: of the other ranks' slices, and whole
    gradients on their way to them, where the model is fully sharded. host_…: kept on the host instead, whole; of the
    optimizer's state a slice visits the device.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    reference: int = 0
    gathered: int = 0
    host_optimizer: int = 0
    host_reference: int = 0

    def beside(self, other: "Stage") -> "Stage":
        """With another model on the same rank, which trains while this one does not."""
        turns = ("activations", "head")
        fields = [field.name for field in dataclasses.fields(self)]
        both = {name: (getattr(self, name), getattr(other, name)) for name in fields}
        return Stage(**{name: max(pair) if name in turns else sum(pair) for name, pair in both.items()})

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """What the total is made of; the last two only where there is any."""
        always = ("weights", "gradients", "optimizer", "activations", "head")
        sizes = {name: getattr(self, name) for name in (*always, "reference", "gathered")}
        return {name: size for name, size in sizes.items() if size or name in always}

    @property
    def state(self) -> int:
        """What a checkpoint copies before it is written, on the host, where saves run in the background."""
        return self.weights + (self.host_optimizer or self.optimizer)

    @property
    def on_host(self) -> dict[str, int]:
        """What is kept on the host all the time, where anything is."""
        sizes = {"optimizer": self.host_optimizer, "reference": self.host_reference}
        return {name: size for name, size in sizes.items() if size}


def stages(shapes: Shapes, layout: Layout) -> list[Stage]:
    """One per pipeline stage; all ranks of a stage need the same."""
    if layout.fully_sharded:
        return [_offloaded(_fully_sharded(shapes, layout), layout)]
    return [_offloaded(_stage(shapes, layout, i), layout) for i in range(layout.pipeline)]


def _offloaded(stage: Stage, layout: Layout) -> Stage:
    """With what is kept on the host there; the weights that are trained are, too, while the reference is in place."""
    if "optimizer" in layout.offload:
        number = 12 if layout.half and not layout.fully_sharded else 8
        slice_ = min(stage.optimizer, number * SLICE)
        stage = dataclasses.replace(stage, optimizer=slice_, host_optimizer=stage.optimizer)
    if "reference" in layout.offload:
        stage = dataclasses.replace(stage, reference=0, host_reference=2 * stage.reference)
    return stage


def _stage(shapes: Shapes, layout: Layout, index: int) -> Stage:
    t, first, last = layout.tensor, index == 0, index == layout.pipeline - 1
    layers = shapes.layers // layout.pipeline
    table = shapes.vocabulary_parameters(t)
    numbers = layers * shapes.layer_without_experts(t)
    numbers += table if first else 0
    score = shapes.hidden if layout.scores and last else 0
    output = 0 if layout.scores or (shapes.tied and first) else table
    numbers += output + score + shapes.hidden if last else 0
    experts = layers * shapes.layer_experts(layout.expert)
    adapters = layers * adapter_parameters(shapes, layout)
    trained = adapters + score if adapters else numbers + experts
    size = 2 if layout.half else 4
    replicas, same_experts = layout.data * layout.context, layout.data * layout.context * t // layout.expert
    owned = trained // replicas if adapters else numbers // replicas + experts // same_experts
    numbers += experts
    optimizer = (12 if layout.half else 8) * owned
    if layout.muon:
        optimizer = (12 if layout.half else 8) * trained - 4 * (layers * shapes.layer_matrices(t) + experts)
    return Stage(
        parameters=numbers + adapters,
        trained=trained,
        weights=size * (numbers + adapters),
        gradients=4 * trained,
        optimizer=optimizer,
        activations=size * _activations(shapes, layout, layers, _under_way(layout, index), last),
        head=_head(shapes, layout, table) if last and not layout.scores else 0,
        reference=size * numbers if layout.keeps_reference else 0,
    )


def _fully_sharded(shapes: Shapes, layout: Layout) -> Stage:
    """A rank of the transformers backend."""
    table, layer = shapes.vocabulary_parameters(1), shapes.layer_parameters(layout.tensor)
    score = shapes.hidden if layout.scores else 0
    ends = (1 if shapes.tied or layout.scores else 2) * table + shapes.hidden + score
    numbers = ends + shapes.layers * layer
    adapters = shapes.layers * adapter_parameters(shapes, layout)
    trained = adapters + score if adapters else numbers
    size = 2 if layout.half else 4
    whole_gradient = 0 if adapters else (size + 4) * max(ends, layer)  # as computed, and in fp32 to be reduced
    return Stage(
        parameters=numbers + adapters,
        trained=trained,
        weights=4 * (numbers + adapters) // layout.data,
        gradients=4 * trained // layout.data,
        optimizer=(8 * trained - (4 * shapes.layers * shapes.layer_matrices(layout.tensor) if layout.muon else 0))
        // layout.data,
        activations=size * _activations(shapes, layout, shapes.layers, 1, True),
        head=0 if layout.scores else _head(shapes, layout, table),
        reference=4 * numbers // layout.data if layout.keeps_reference else 0,
        gathered=size * (ends + 2 * layer) + whole_gradient,
    )


def adapter_parameters(shapes: Shapes, layout: Layout) -> int:
    """Numbers of one layer's adapters on one rank: rank x (inputs + outputs) of each, one of the two shared out."""
    h, f, t = shapes.hidden, shapes.intermediate, layout.tensor
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    sides = {
        "qkv": h + (queries + 2 * keys) // t,
        "output": queries // t + h,
        "gate_up": h + 2 * f // t,
        "down": f // t + h,
    }
    return layout.lora_rank * sum(sides[target] for target in layout.lora_targets)


def _under_way(layout: Layout, index: int) -> int:
    """Micro-batches of which a stage holds activations at its peak; interleaved stages hold chunks of more, in all of
    p + (p − 1) / v at stage 0 (Narayanan et al. 2021, 2.2)."""
    extra = -(-(layout.pipeline - 1) // layout.virtual) if layout.virtual > 1 else 0
    return layout.pipeline - index + extra


def _activations(shapes: Shapes, layout: Layout, layers: int, under_way: int, last: bool) -> int:
    """Numbers kept by all micro-batches under way."""
    tokens = -(-layout.micro_batch_tokens // layout.context)
    width = shapes.hidden // layout.tensor if layout.sequence_parallel else shapes.hidden
    whole = tokens * layer_activations(shapes, layout)
    of_layer = whole
    if layout.recompute:
        of_layer = tokens * width
    elif layout.selective:
        of_layer = tokens * selected_activations(shapes, layout)
    ends = 5 * tokens * width if last else 0  # the last norm, and what the output layer picks
    return under_way * layers * of_layer + (whole if layout.recompute or layout.selective else 0) + ends


def layer_activations(shapes: Shapes, layout: Layout) -> int:
    """Numbers that autograd keeps per local token of one layer (see above)."""
    t, c = layout.tensor, layout.context
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    if layout.fully_sharded:
        norms = 2 * (queries + keys) if shapes.qk_norm else 0
        return 6 * shapes.hidden + (4 * shapes.intermediate + 4 * queries + 3 * keys + norms) // t
    mlp = 5 * shapes.intermediate
    if shapes.experts:
        mlp = shapes.experts_per_token * (6 * shapes.expert_intermediate + shapes.hidden) + 2 * shapes.experts
    shared = mlp + 4 * queries + 4 * keys
    if shapes.qk_norm:
        shared += 2 * queries + keys
    if c > 1 and layout.ulysses:
        shared += 2 * keys * (c // math.gcd(c, max(1, shapes.kv_heads // t)) - 1)
    elif c > 1:
        shared += 2 * keys * c + queries * (2 * c + 1)
    return 6 * shapes.hidden // (t if layout.sequence_parallel else 1) + shared // t + 4 * shapes.head_dim


def selected_activations(shapes: Shapes, layout: Layout) -> int:
    """Of `layer_activations`, what selective recomputation keeps."""
    t = layout.tensor
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    if layout.fully_sharded:
        return 3 * shapes.hidden + (2 * shapes.intermediate + 2 * (queries + keys) + shapes.heads) // t
    norms = 4 * shapes.hidden // (t if layout.sequence_parallel else 1)
    mlp = 3 * shapes.intermediate
    if shapes.experts:
        mlp = 3 * shapes.experts_per_token * shapes.expert_intermediate
    return layer_activations(shapes, layout) - norms - mlp // t


def _head(shapes: Shapes, layout: Layout, table: int) -> int:
    """Bytes: logits of a chunk, the fp32 gradient of the output layer, and its fp32 copy where weights have 2 bytes."""
    chunk = min(HEAD_BYTES // 4, layout.micro_batch_tokens * (table // shapes.hidden))
    gradient, copy = 0 if layout.lora_rank else table, table if layout.half else 0
    return 4 * (LOGIT_COPIES * chunk + gradient + copy)


@dataclass(frozen=True)
class Needs:
    """Of a recipe: its stages, and what the hosts hold beside the devices."""

    shapes: Shapes
    layout: Layout
    stages: list[Stage]

    @staticmethod
    def of(recipe: Recipe) -> "Needs | None":
        """None where the model's shapes cannot be read."""
        shapes = read_shapes(recipe.model.path)
        if shapes is None:
            return None
        layout = Layout.of(recipe)
        needed = stages(shapes, layout)
        if recipe.has_critic:
            other = read_shapes(recipe.algorithm.critic.path or recipe.model.path) or shapes
            critic = dataclasses.replace(layout, scores=True, lora_rank=0, lora_targets=(), keeps_reference=False)
            needed = [a.beside(b) for a, b in zip(needed, stages(other, critic), strict=True)]
        return Needs(shapes, layout, needed)

    @property
    def worst(self) -> int:
        """The stage that needs most."""
        return max(range(len(self.stages)), key=lambda i: self.stages[i].total)

    @property
    def version(self) -> int:
        """Bytes of the whole model, which rank 0 gathers on its host to publish a version."""
        return self.shapes.parameters * (2 if self.layout.half else 4)


def problems(recipe: Recipe) -> list[str]:
    """One sentence if the recipe names a device's memory and needs more; empty otherwise."""
    device, needs = recipe.learner.device_gib, Needs.of(recipe)
    if device is None or needs is None:
        return []
    stage = needs.stages[needs.worst]
    if stage.total <= device * GIB:
        return []
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in stage.parts.items())
    return [
        f"learner.device_gib: a rank of pipeline stage {needs.worst} needs {stage.total / GIB:.1f} GiB ({parts}) of "
        f"{device:g}; {_way_out(recipe, device)}"
    ]


def _way_out(recipe: Recipe, device: float) -> str:
    """The least change that fits, of those that cost least first."""
    learner = recipe.learner
    p = learner.parallel
    changes: list[tuple[str, dict[str, object]]] = [
        (f"set learner.recompute={much}", {"recompute": much}) for much in ("selective", "full")
    ]
    tokens = learner.micro_batch_tokens // 2
    floor = recipe.sampling.max_tokens if recipe.generates else 1
    while tokens >= max(floor, LEAST_TOKENS):
        words = f"set learner.recompute=full and learner.micro_batch_tokens={tokens}"
        changes.append((words, {"recompute": "full", "micro_batch_tokens": tokens}))
        tokens //= 2
    offload = tuple(dict.fromkeys((*learner.offload, "optimizer")))
    words = f"set learner.recompute=full and learner.offload=[{','.join(offload)}]"
    changes.append((words, {"recompute": "full", "offload": offload}))
    ranks = learner.ranks * 2
    while learner.backend == "transformers" and ranks <= 64:
        words = f"set learner.recompute=full and learner.ranks={ranks}"
        changes.append((words, {"recompute": "full", "ranks": ranks}))
        ranks *= 2
    tensor = p.tensor * 2
    while learner.backend == "megatron" and tensor <= 8:
        ranks = max(learner.ranks, tensor * p.pipeline * p.context)
        parallel = p.model_copy(update={"tensor": tensor, "sequence_parallel": True})
        words = f"set learner.parallel.tensor={tensor}, learner.parallel.sequence_parallel=true, learner.recompute=full"
        words += f" and learner.ranks={ranks}" if ranks != learner.ranks else ""
        changes.append((words, {"recompute": "full", "parallel": parallel, "ranks": ranks}))
        tensor *= 2
    for words, update in changes:
        changed = recipe.model_copy(update={"learner": learner.model_copy(update=update)})
        needs = Needs.of(changed)
        if needs is None or needs.shapes.indivisible(needs.layout.tensor, needs.layout.pipeline):
            continue
        if needs.layout.ulysses and not needs.shapes.shares_heads(needs.layout.tensor, needs.layout.context):
            continue
        if needs.stages[needs.worst].total <= device * GIB:
            return words
    if learner.backend == "transformers":
        return "spread the model over more ranks with learner.backend=megatron (learner.parallel.tensor, pipeline)"
    return "spread the model over more ranks (learner.parallel.pipeline, learner.parallel.tensor)"
