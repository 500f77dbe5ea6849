"""What autograd keeps of one micro-batch on one rank, counted from the model's shapes and the layout.

It is kept for every micro-batch that a pipeline stage has under way: stage i of p has p − i of them (1F1B), and
(p − 1) / v more where v chunks interleave. Per local token and layer, in numbers, with h hidden, f intermediate, d head
dimension, A = heads × d and G = KV heads × d, t tensor ranks and c context ranks:

    6 h                                 two norms: input, normalised, output   (/ t with sequence parallelism)
    (5 f) / t                           gate and up, activated, product
    (4 A + 4 G) / t                     fused QKV, query, key, packing, output
    (2 A + G) / t                       query and key norm (Qwen3)
    k (6 e + h) / t                     in the MLP's place: k experts of e intermediate, and what is sent to them
    4 d                                 rotary embedding
    (2 G c + 2 A (c + ½)) / t           context parallelism: gathered K and V, repeated for every query head
    (2 G (r − 1)) / t                   or, where heads are exchanged: KV heads that are too few, repeated r times

On the transformers backend a layer keeps 6 h + (4 f + 4 A + 3 G) / t numbers per token, and 2 (A + G) / t for query and
key norm.

With `recompute: selective` a layer does without 4 h and 3 f (of an expert's 6 e, and what is sent to it, 3 e), on the
transformers backend with 3 h + (2 f + 2 (A + G)) / t and a number per head. With `recompute: full` it keeps its
input alone (h). In both, one layer at a time has all of the above.
`services/learner/backends/planning_test.py` compares this with what autograd really keeps in fp32 on a CPU. A number of
2 bytes is counted as such, as a GPU's kernels have it; on a CPU attention and norms compute in fp32 and keep up to
twice that.
"""

import math

from penstock.memory_plan.layout import PlannedLayout
from penstock.memory_plan.shapes import Shapes


def activations(shapes: Shapes, layout: PlannedLayout, layers: int, batches: int, last: bool) -> int:
    """Numbers kept by all micro-batches that a stage of `layers` layers has under way."""
    tokens = -(-layout.micro_batch_tokens // layout.context)
    width = shapes.hidden // layout.tensor if layout.sequence_parallel else shapes.hidden
    whole = tokens * layer_activations(shapes, layout)
    of_layer = whole
    if layout.recompute:
        of_layer = tokens * width
    elif layout.selective:
        of_layer = tokens * selected_activations(shapes, layout)
    ends = 5 * tokens * width if last else 0  # the last norm, and what the output layer picks
    return batches * layers * of_layer + (whole if layout.recompute or layout.selective else 0) + ends


def layer_activations(shapes: Shapes, layout: PlannedLayout) -> int:
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


def selected_activations(shapes: Shapes, layout: PlannedLayout) -> int:
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


def under_way(layout: PlannedLayout, index: int) -> int:
    """Micro-batches of which a stage holds activations at its peak; interleaved stages hold chunks of more, in all of
    p + (p − 1) / v at stage 0 (Narayanan et al. 2021, 2.2)."""
    extra = -(-(layout.pipeline - 1) // layout.virtual) if layout.virtual > 1 else 0
    return layout.pipeline - index + extra
