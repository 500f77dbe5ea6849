"""Measures what a forward pass of the transformers backend leaves in memory for the backward pass."""

import gc
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from penstock.recipes.sections import Learner, Parallel
from services.learner.backends.packing.packs import describe_pack
from services.learner.backends.transformers_fsdp import model as transformers_model
from services.learner.backends.transformers_fsdp import recompute as transformers_recompute
from services.learner.backends.transformers_fsdp.layout import Ranks
from services.learner.backends.transformers_fsdp.model import positions_of, read_config
from services.learner.backends.transformers_fsdp.tensor_plan import TensorPlan
from services.learner.backends.transformers_fsdp.trial import load_and_try


def kept_bytes(model_dir: Path, lengths: list[int], recompute: Any = "none", tensor: int = 1) -> int:
    """Bytes that autograd, and what recomputes for it, keep of one forward pass to the last hidden states, parameters
    aside.

    Of the model before it is sharded: gathered parameters are not told apart from activations afterwards.
    """
    model, _ = load_and_try(model_dir, read_config(model_dir))
    layers = transformers_model.layers_of(model)
    transformers_recompute.install(model, layers, recompute)
    device = torch.device("cpu")
    TensorPlan(model, layers, Ranks.of(Learner(parallel=Parallel(tensor=tensor)), device)).cut(model)
    pack = describe_pack(lengths, lengths, device)
    tokens = torch.ones(1, sum(lengths), dtype=torch.int64)
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def note(t: torch.Tensor) -> torch.Tensor:
        storage = _storage(t)
        kept[storage.data_ptr()] = storage.nbytes()
        held.append(t)  # what is freed would give its address to another
        return t

    before = {pointer for pointer, _ in _alive()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        output = transformers_model.forward(model, tokens, positions_of(lengths), pack)
    assert output.requires_grad
    gc.collect()
    sizes = dict(_alive()) | kept
    return sum(size for pointer, size in sizes.items() if pointer not in before)


def _alive() -> list[tuple[int, int]]:
    """(address, bytes) of what Python's tensors refer to; selective recomputation keeps its results there."""
    storages = [_storage(o) for o in gc.get_objects() if isinstance(o, torch.Tensor) and not o.is_meta]
    return [(s.data_ptr(), s.nbytes()) for s in storages]


def _storage(t: torch.Tensor) -> Any:
    return (t._local_tensor if isinstance(t, DTensor) else t).untyped_storage()
