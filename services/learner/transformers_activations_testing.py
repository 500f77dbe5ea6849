"""Measures what a forward pass of the transformers backend leaves in memory for the backward pass."""

from pathlib import Path

import torch

from services.learner import transformers_model
from services.learner.packed import describe_pack
from services.learner.transformers_model import load_and_try, positions_of, read_config


def kept_bytes(model_dir: Path, lengths: list[int]) -> int:
    """Bytes that autograd keeps of one forward pass to the last hidden states, parameters aside.

    Of the model before it is sharded: gathered parameters are not told apart from activations afterwards.
    """
    model, _ = load_and_try(model_dir, read_config(model_dir))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes(), t
        return t

    pack = describe_pack(lengths, lengths, 1, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        tokens = torch.ones(1, sum(lengths), dtype=torch.int64)
        output = transformers_model.forward(model, tokens, positions_of(lengths), pack)
    assert output.requires_grad
    return sum(size for size, _ in kept.values())
