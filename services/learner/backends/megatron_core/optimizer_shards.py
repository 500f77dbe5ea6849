"""Which slice of which parameter each part of the optimizer's state belongs to.

AdamW keeps two moments per number, and an fp32 main weight where the model is bf16. A replicated optimizer keeps them
for whole parameters; Megatron's distributed one cuts its flat gradient buffer over data × context ranks without regard
for parameter boundaries, so a rank owns stretches:

    parameter [6], two ranks:   rank 0 owns numbers 0 … 3, rank 1 owns 4 … 5

Invariant: over the ranks of one data × context group the pieces of a parameter cover it exactly once (distributed) or
once on every rank (replicated). With the parameter's name that makes the state independent of the buffer's layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Numbers start … end−1 of the flattened `parameter`; `main` is what the inner optimizer steps (it is flat for a
    distributed optimizer, and the parameter's own memory where weights are fp32)."""

    parameter: torch.nn.Parameter
    start: int
    end: int
    main: Tensor


def pieces(optimizer: Any) -> Iterator[Piece]:
    """Of one Megatron optimizer on this rank, in its own order."""
    if hasattr(optimizer, "model_param_group_index_map"):
        for parameter, (group, order) in optimizer.model_param_group_index_map.items():
            owned = optimizer._get_model_param_range_map(parameter)["param"]
            yield Piece(parameter, owned.start, owned.end, optimizer.optimizer.param_groups[group]["params"][order])
        return
    whole = list(optimizer.get_parameters())
    models = {id(main): model for model, main in _main_weights(optimizer)}
    for main in whole:
        parameter = models.get(id(main), main)
        yield Piece(parameter, 0, parameter.numel(), main)


def _main_weights(optimizer: Any) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    for models, mains in zip(
        getattr(optimizer, "float16_groups", ()), getattr(optimizer, "fp32_from_float16_groups", ()), strict=True
    ):
        yield from zip(models, mains, strict=True)
