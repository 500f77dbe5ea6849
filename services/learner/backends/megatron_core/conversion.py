"""Maps parameters between Hugging Face names and Megatron shards, both ways, one tensor at a time.

Loading reads only what this rank holds; exporting gathers a parameter over tensor ranks and hands it to rank 0 under
its Hugging Face name. Our own mapping, because it must run without TransformerEngine and be bitwise in a round trip.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from services.learner.backends.common.owners import Owners
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.huggingface.config import ModelConfig
from services.learner.interface.errors import UnsupportedModel
from services.learner.interface.telling import told_by_all

Kind = Literal["same", "vocab", "qkv", "row", "gate_up"]

SCORE = "score.weight"
_LAYER = r"decoder\.layers\.(\d+)\."
_HF_LAYER = "model.layers.{}."
_RULES: list[tuple[str, Kind, list[str]]] = [
    (r"embedding\.word_embeddings\.weight", "vocab", ["model.embed_tokens.weight"]),
    (r"output_layer\.weight", "vocab", ["lm_head.weight"]),
    (r"score\.weight", "same", [SCORE]),
    (r"decoder\.final_layernorm\.weight", "same", ["model.norm.weight"]),
    (_LAYER + r"input_layernorm\.weight", "same", [_HF_LAYER + "input_layernorm.weight"]),
    (_LAYER + r"pre_mlp_layernorm\.weight", "same", [_HF_LAYER + "post_attention_layernorm.weight"]),
    (_LAYER + r"self_attention\.q_layernorm\.weight", "same", [_HF_LAYER + "self_attn.q_norm.weight"]),
    (_LAYER + r"self_attention\.k_layernorm\.weight", "same", [_HF_LAYER + "self_attn.k_norm.weight"]),
    (
        _LAYER + r"self_attention\.linear_qkv\.(weight|bias)",
        "qkv",
        [_HF_LAYER + f"self_attn.{x}_proj." + "{}" for x in "qkv"],
    ),
    (_LAYER + r"self_attention\.linear_proj\.weight", "row", [_HF_LAYER + "self_attn.o_proj.weight"]),
    (
        _LAYER + r"mlp\.linear_fc1\.weight",
        "gate_up",
        [_HF_LAYER + "mlp.gate_proj.weight", _HF_LAYER + "mlp.up_proj.weight"],
    ),
    (_LAYER + r"mlp\.linear_fc2\.weight", "row", [_HF_LAYER + "mlp.down_proj.weight"]),
    (_LAYER + r"mlp\.router\.weight", "same", [_HF_LAYER + "mlp.gate.weight"]),
    (
        _LAYER + r"mlp\.experts\.(\d+)\.linear_fc1\.weight",
        "gate_up",
        [_HF_LAYER + "mlp.experts.{}.gate_proj.weight", _HF_LAYER + "mlp.experts.{}.up_proj.weight"],
    ),
    (_LAYER + r"mlp\.experts\.(\d+)\.linear_fc2\.weight", "row", [_HF_LAYER + "mlp.experts.{}.down_proj.weight"]),
    (_LAYER + r"self_attention\.linear_qkv\.lora\.a", "same", [_HF_LAYER + "self_attn.qkv_proj.lora_A"]),
    (
        _LAYER + r"self_attention\.linear_qkv\.lora\.b",
        "qkv",
        [_HF_LAYER + f"self_attn.{x}_proj.lora_B" for x in "qkv"],
    ),
    (_LAYER + r"self_attention\.linear_proj\.lora\.a", "row", [_HF_LAYER + "self_attn.o_proj.lora_A"]),
    (_LAYER + r"self_attention\.linear_proj\.lora\.b", "same", [_HF_LAYER + "self_attn.o_proj.lora_B"]),
    (_LAYER + r"mlp\.linear_fc1\.lora\.a", "same", [_HF_LAYER + "mlp.gate_up_proj.lora_A"]),
    (
        _LAYER + r"mlp\.linear_fc1\.lora\.b",
        "gate_up",
        [_HF_LAYER + "mlp.gate_proj.lora_B", _HF_LAYER + "mlp.up_proj.lora_B"],
    ),
    (_LAYER + r"mlp\.linear_fc2\.lora\.a", "row", [_HF_LAYER + "mlp.down_proj.lora_A"]),
    (_LAYER + r"mlp\.linear_fc2\.lora\.b", "same", [_HF_LAYER + "mlp.down_proj.lora_B"]),
]
"""Megatron name (global layer and expert numbers) -> how it is sharded, Hugging Face names. Experts are never cut."""


@dataclass(frozen=True)
class MappedParameter:
    """One local Megatron parameter and the Hugging Face tensors it is made of."""

    name: str
    parameter: torch.nn.Parameter
    kind: Kind
    hf_names: list[str]

    @property
    def is_adapter(self) -> bool:
        """Whether it is of an adapter (`lora`), which no Hugging Face model has; exports hold the merged weight."""
        return ".lora." in self.name

    @property
    def is_expert(self) -> bool:
        return is_expert(self.name)

    def place(self, layout: RankGroups) -> tuple[int, int]:
        """(rank, size) of the ranks that the tensor is cut over."""
        return (0, 1) if self.is_expert else (layout.groups.tp.rank(), layout.groups.tp.size())


_EXPERT = re.compile(r"(.*\.mlp\.experts\.)(\d+)(\..*)")


def is_expert(name: str) -> bool:
    """Whether a Megatron parameter is one expert's."""
    return _EXPERT.fullmatch(name) is not None


def rule_of(name: str) -> tuple[Kind, list[str]]:
    """How the Megatron parameter `name` (global layer number) is sharded, and its Hugging Face names.

    Raises KeyError for a parameter without a rule.
    """
    for pattern, kind, hf_names in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return kind, [h.format(*match.groups()) for h in hf_names]
    raise KeyError(f"no Hugging Face counterpart for parameter {name}")


def mapped_parameters(chunks: Sequence[Any]) -> Iterator[MappedParameter]:
    """Parameters of this rank's (unwrapped) PolicyModels; a parameter without a rule raises KeyError."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            local = re.match(_LAYER, name)
            if local:
                layer = chunk.decoder.layers[int(local[1])]
                name = f"decoder.layers.{layer.layer_number - 1}.{name[local.end() :]}"
                if expert := re.search(r"\.local_experts\.(\d+)", name):
                    number = layer.mlp.local_expert_indices[int(expert[1])]
                    name = f"{name[: expert.start()]}.{number}{name[expert.end() :]}"
            yield MappedParameter(name, parameter, *rule_of(name))


def sources(mapped: MappedParameter, config: ModelConfig) -> list[str]:
    """The Hugging Face tensors that fill a parameter; a tied head is filled by the embedding."""
    tied = mapped.hf_names == ["lm_head.weight"] and config.tied_embeddings
    return ["model.embed_tokens.weight"] if tied else mapped.hf_names


def shard(kind: Kind, tensors: list[Tensor], config: ModelConfig, rank: int, size: int) -> Tensor:
    """Whole Hugging Face tensors -> the Megatron tensor of tensor-parallel rank `rank` of `size`."""
    if kind == "same":
        return tensors[0]
    if kind == "row":
        return tensors[0].chunk(size, 1)[rank]
    if kind == "vocab":
        return F.pad(tensors[0], (0, 0, 0, -tensors[0].shape[0] % size)).chunk(size, 0)[rank]
    if kind == "qkv":
        rest = tensors[0].shape[1:]
        groups = [x.reshape(config.num_kv_heads, -1, *rest) for x in tensors]
        return torch.cat(groups, 1).reshape(-1, *rest).chunk(size, 0)[rank]
    return torch.cat([x.chunk(size, 0)[rank] for x in tensors], 0)


def unshard(kind: Kind, parts: list[Tensor], config: ModelConfig) -> list[Tensor]:
    """The Megatron tensors of all tensor-parallel ranks -> whole Hugging Face tensors (may be views)."""
    if kind == "same":
        return [parts[0]]
    if kind == "row":
        return [torch.cat(parts, 1)]
    if kind == "vocab":
        return [torch.cat(parts, 0)[: config.vocab_size]]
    if kind == "qkv":
        rest = parts[0].shape[1:]
        queries = config.num_heads // config.num_kv_heads
        grouped = torch.cat(parts, 0).view(config.num_kv_heads, (queries + 2) * config.head_dim, *rest)
        split = grouped.split([queries * config.head_dim, config.head_dim, config.head_dim], 1)
        return [x.reshape(-1, *rest) for x in split]
    return [torch.cat(x, 0) for x in zip(*(p.chunk(2, 0) for p in parts), strict=True)]


@torch.no_grad()
def load(chunks: Sequence[Any], get: Callable[[str], Tensor], config: ModelConfig, layout: RankGroups) -> None:
    """Fills this rank's parameters from `get(hf name)`. Raises UnsupportedModel for a missing or misshapen tensor."""
    for p in mapped_parameters(chunks):
        names = sources(p, config)
        local = shard(p.kind, [get(name) for name in names], config, *p.place(layout))
        if local.shape != p.parameter.shape:
            raise UnsupportedModel(
                f"{', '.join(names)} gives {tuple(local.shape)} where config.json implies {tuple(p.parameter.shape)}"
            )
        p.parameter.copy_(local)


Value = Callable[[torch.nn.Parameter], Tensor]


def _data(parameter: torch.nn.Parameter) -> Tensor:
    return parameter.data


@torch.no_grad()
def export(
    chunks: Sequence[Any], config: ModelConfig, layout: RankGroups, value: Value = _data, adapters: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Streams (hf name, whole tensor) to rank 0; a collective: every rank must drain the iterator.

    Yields on rank 0 only: contiguous CPU copies that nothing else refers to. Other ranks yield nothing; those outside
    the first replica of every parameter return at once. `value` chooses what is exported for a parameter (its data,
    with adapters merged, or its gradient in tests). With `adapters` it is these alone, not the model.
    """
    groups = layout.groups
    first_replica = {
        False: groups.dp_cp.rank() == 0,
        True: config.experts is not None and groups.expt_dp.rank() == 0,
    }
    stage = [
        p
        for p in mapped_parameters(chunks)
        if first_replica[p.is_expert]
        and not (p.hf_names == ["lm_head.weight"] and config.tied_embeddings)
        and p.is_adapter == adapters
    ]
    leads = groups.tp.rank() == 0 and groups.dp_cp.rank() == 0
    if groups.pp.rank() == 0 or not leads:
        for name, tensor in _gathered(stage, config, layout, value):
            if leads:
                yield name, tensor.to("cpu", copy=True).contiguous()
    if groups.pp.size() > 1 and leads:
        yield from _later_stages(stage, config, layout, value)


@torch.no_grad()
def owned(
    chunks: Sequence[Any], config: ModelConfig, layout: RankGroups, value: Value = _data
) -> Iterator[tuple[str, Tensor]]:
    """Streams what this rank publishes, as `export` does what rank 0 exports: over all ranks each tensor once.

    Stages and experts stay where they are; what replicas and tensor ranks could have as well is dealt out among them.
    """
    groups = layout.groups
    replica, tp = groups.dp_cp.rank(), groups.tp.size()
    dense, experts = Owners(groups.dp_cp.size() * tp), Owners(groups.expt_dp.size() if config.experts else 1)
    for p in mapped_parameters(chunks):
        if p.is_adapter or (p.hf_names == ["lm_head.weight"] and config.tied_embeddings):
            continue
        cut = 1 if p.is_expert else tp
        sizes = [t.nbytes for t in unshard(p.kind, [torch.empty_like(p.parameter, device="meta")] * cut, config)]
        if p.is_expert:
            own, mine = groups.expt_dp.rank(), [experts.next(size) for size in sizes]
            needed = own in mine
        else:
            own, mine = replica * tp + groups.tp.rank(), [dense.next(size) for size in sizes]
            needed = any(owner // tp == replica for owner in mine)
        if not needed:
            continue
        whole = unshard(p.kind, _over(value(p.parameter).contiguous(), groups.tp, p.kind, cut), config)
        for name, tensor, owner in zip(p.hf_names, whole, mine, strict=True):
            if owner == own:
                yield name, tensor.to("cpu", copy=True).contiguous()


def _over(local: Tensor, group: dist.ProcessGroup, kind: Kind, ranks: int) -> list[Tensor]:
    """What all ranks of a group have of a parameter, which gloo wants without strides."""
    if ranks == 1 or kind == "same":
        return [local]
    parts = [torch.empty_like(local) for _ in range(ranks)]
    dist.all_gather(parts, local, group=group)
    return parts


def _gathered(
    stage: list[MappedParameter], config: ModelConfig, layout: RankGroups, value: Value
) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors of a stage: matrices joined over tensor ranks, the experts of all expert ranks in turn."""
    for p in stage:
        local = value(p.parameter).contiguous()  # gloo ignores strides
        group = layout.groups.ep if p.is_expert else layout.groups.tp
        parts = _over(local, group, "row" if p.is_expert else p.kind, group.size())
        yield from _named(p, parts, config)


def _named(p: MappedParameter, parts: list[Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """parts: one per tensor rank, or one expert per expert rank; ranks have consecutive experts, equally many."""
    if not p.is_expert:
        yield from zip(p.hf_names, unshard(p.kind, parts, config), strict=True)
        return
    match = _EXPERT.fullmatch(p.name)
    assert match is not None and config.experts is not None
    each = config.experts.number // len(parts)
    for rank, part in enumerate(parts):
        names = rule_of(f"{match[1]}{int(match[2]) % each + rank * each}{match[3]}")[1]
        yield from zip(names, unshard(p.kind, [part], config), strict=True)


def _later_stages(
    stage: list[MappedParameter], config: ModelConfig, layout: RankGroups, value: Value
) -> Iterator[tuple[str, Tensor]]:
    """Stages 1, 2, … send to stage 0, in turn; shapes go ahead, worked out on meta tensors."""
    tp, pp, ep = layout.groups.tp, layout.groups.pp, layout.groups.ep
    shapes: list[tuple[str, torch.Size, torch.dtype]] = []
    for p in stage:
        meta = [torch.empty_like(value(p.parameter), device="meta")] * (ep if p.is_expert else tp).size()
        shapes += [(name, t.shape, t.dtype) for name, t in _named(p, meta, config)]
    first = dist.get_global_rank(pp, 0)
    announced = told_by_all(shapes, pp)
    if pp.rank() == 0:
        for s in range(1, pp.size()):
            for name, shape, dtype in announced[s]:
                tensor = torch.empty(shape, dtype=dtype, device=layout.device)
                dist.recv(tensor, src=dist.get_global_rank(pp, s), group=pp)
                yield name, tensor.to("cpu", copy=tensor.is_cuda)
        return
    for _, tensor in _gathered(stage, config, layout, value):
        dist.send(tensor.contiguous(), dst=first, group=pp)
