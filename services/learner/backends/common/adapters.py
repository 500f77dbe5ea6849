"""Low-rank adapters as every backend has them: which layers, their names, and what they begin with.

W + (alpha / rank) · B A (Hu et al. 2021), with the base W frozen. Query, key and value share one A, gate and up too.
B starts at zero: the model is the base until the first step. A is drawn whole from a generator seeded by its name, so
it is the same on every rank, under every layout and on every backend.
"""

import math
import zlib
from typing import Any

import torch
from torch import Tensor

from penstock.recipes.sections import Lora

TARGETS = {
    "qkv": "self_attention.linear_qkv",
    "output": "self_attention.linear_proj",
    "gate_up": "mlp.linear_fc1",
    "down": "mlp.linear_fc2",
}
"""What can be adapted, and its name inside a layer (Megatron's)."""


def identity(lora: Lora | None) -> dict[str, Any] | None:
    """What a checkpoint's model identity says of adapters: how they are published is no part of them."""
    return None if lora is None else {"rank": lora.rank, "alpha": lora.alpha, "targets": [*lora.targets]}


_SHARED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Whose A is one, and who share it."""


def peft_names(module: str, side: str) -> list[str]:
    """What PEFT (and weights.proto) calls one side of a module's adapter, lora_A or lora_B, for all that share it."""
    parent, _, layer = module.rpartition(".")
    return [f"{parent}.{name}.{side}.weight" for name in _SHARED.get(layer, (layer,))]


def drawn(layer: int, target: str, rank: int, inputs: int, seed: int) -> Tensor:
    """fp32 [rank, inputs]: the first A of a target of layer 0, 1, …"""
    bound = 1 / math.sqrt(inputs)  # kaiming_uniform with a = sqrt(5), as PEFT
    name = f"{layer}.{TARGETS[target]}"
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    return torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
