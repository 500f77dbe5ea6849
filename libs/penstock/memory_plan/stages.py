"""What one rank of the learner needs in memory, by pipeline stage, from the model's shapes and its layout: arithmetic.

Per number of the rank's parameters: the weight (4 bytes, or 2 in bfloat16 and float16), its fp32 gradient (4), Adam's
two moments (8) and where weights have 2 bytes an fp32 main weight (4); the last two are shared out over data × context
ranks (ZeRO-1). What a micro-batch leaves is `activations.py`'s.

With `learner.optimizer.name: muon` a number of a hidden matrix has a momentum (4) in place of the moments. On Megatron
nothing of the optimizer is shared out then, for Muon needs whole matrices. It gathers these one after the other, when
the activations are gone; not counted, for it is less than they were.

Experts are shared out over expert ranks, and the optimizer's state for them over the ranks that have the same ones.

With adapters (`learner.lora`) gradients, moments and main weights are the adapters' alone. A method that compares with
a reference (KL, most preference losses) keeps the initial weights once more; with adapters the frozen base is that. A
reward model has h numbers in place of the output layer, and no logits; a critic is one beside the policy.

On the transformers backend weights (fp32, the main weights), gradients and moments are all shared out over the ranks
(FSDP2). Gathered at once are the embedding, the output layer and two layers, in the model's type, and the gradient of
the largest of these. t tensor ranks share a layer's matrices, and nothing of the embedding and the output layer.

Not counted: the CUDA context, communication buffers, fragmentation (leave a tenth free).
"""

import dataclasses
from dataclasses import dataclass

from penstock.memory_plan.activations import activations, under_way
from penstock.memory_plan.layout import PlannedLayout
from penstock.memory_plan.shapes import Shapes

GIB = 2**30
HEAD_BYTES = 128 * 2**20
"""fp32 logits of one rank that exist at once (the learner's settings.HEAD_BYTES)."""
SLICE = 2**24
"""Numbers whose state is on the device at once in a step, where it lives on the host (the learner's SLICE)."""
LOGIT_COPIES = 4
"""fp32 [chunk, vocabulary] tensors alive at the peak of the output layer's forward or backward."""


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


def stages(shapes: Shapes, layout: PlannedLayout) -> list[Stage]:
    """One per pipeline stage; all ranks of a stage need the same."""
    if layout.fully_sharded:
        return [_offloaded(_fully_sharded(shapes, layout), layout)]
    return [_offloaded(_stage(shapes, layout, i), layout) for i in range(layout.pipeline)]


def _offloaded(stage: Stage, layout: PlannedLayout) -> Stage:
    """With what is kept on the host there; the weights that are trained are, too, while the reference is in place."""
    if "optimizer" in layout.offload:
        number = 12 if layout.half and not layout.fully_sharded else 8
        slice_ = min(stage.optimizer, number * SLICE)
        stage = dataclasses.replace(stage, optimizer=slice_, host_optimizer=stage.optimizer)
    if "reference" in layout.offload:
        stage = dataclasses.replace(stage, reference=0, host_reference=2 * stage.reference)
    return stage


def _stage(shapes: Shapes, layout: PlannedLayout, index: int) -> Stage:
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
        activations=size * activations(shapes, layout, layers, under_way(layout, index), last),
        head=_head(shapes, layout, table) if last and not layout.scores else 0,
        reference=size * numbers if layout.keeps_reference else 0,
    )


def _fully_sharded(shapes: Shapes, layout: PlannedLayout) -> Stage:
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
        activations=size * activations(shapes, layout, shapes.layers, 1, True),
        head=0 if layout.scores else _head(shapes, layout, table),
        reference=4 * numbers // layout.data if layout.keeps_reference else 0,
        gathered=size * (ends + 2 * layer) + whole_gradient,
    )


def adapter_parameters(shapes: Shapes, layout: PlannedLayout) -> int:
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


def _head(shapes: Shapes, layout: PlannedLayout, table: int) -> int:
    """Bytes: logits of a chunk, the fp32 gradient of the output layer, and its fp32 copy where weights have 2 bytes."""
    chunk = min(HEAD_BYTES // 4, layout.micro_batch_tokens * (table // shapes.hidden))
    gradient, copy = 0 if layout.lora_rank else table, table if layout.half else 0
    return 4 * (LOGIT_COPIES * chunk + gradient + copy)
