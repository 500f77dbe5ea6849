"""Tensor parallelism of a Hugging Face model by the plan that it carries (`tp_plan`).

    colwise    rows of the weight over tensor ranks: each computes some heads, or some of the MLP's width
    rowwise    columns of the weight: partial sums of the output are added up
    replicated_with_grad_allreduce    whole, but seen by the rank's own heads alone: gradients are added up

torch's DTensor does the computation; what the plan does not cut (norms, the embedding, the output layer) is whole on
every tensor rank, which gives its gradient whole as well. A plan that cuts anything else is refused by name, and so
are sizes that do not divide: transformers would compute something else silently.

transformers' own loading by the plan needs `accelerate`; reading the plan does not.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from services.learner.backends.transformers_fsdp.layout import Ranks
from services.learner.interface.errors import LayoutError

STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
PARTIAL = "replicated_with_grad_allreduce"


class TensorPlan:
    """What is cut of the layers of a model."""

    def __init__(self, model: Any, layers: Sequence[Any], ranks: Ranks) -> None:
        """Raises LayoutError for a model that cannot be cut into so many parts."""
        self._ranks = ranks
        self._dimensions: dict[str, int] = {}
        self._partial: list[str] = []
        self._styles: dict[Any, ParallelStyle] = {}
        if ranks.tensor == 1:
            return
        self._check_heads(model)
        for name, module, style in _planned(model, layers):
            if style == PARTIAL:
                self._partial += [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
                continue
            if style not in STYLES or not isinstance(module, torch.nn.Linear):
                raise self._refused(model, f"its plan cuts {name}, a {type(module).__name__}, by {style!r}")
            size = module.out_features if style == "colwise" else module.in_features
            if size % ranks.tensor:
                raise self._refused(model, f"{name} has {size} {'outputs' if style == 'colwise' else 'inputs'}")
            self._styles[module] = STYLES[style]()
            self._dimensions[f"{name}.weight"] = 0 if style == "colwise" else 1
            if module.bias is not None and style == "colwise":
                self._dimensions[f"{name}.bias"] = 0
        if not self._styles:
            raise self._refused(model, "it carries no plan for its layers")

    def cut(self, block: torch.nn.Module) -> None:
        """Cuts what the plan names in a block that has its values, equal on all tensor ranks."""
        for module in block.modules():
            style = self._styles.pop(module, None)  # once: a block lies in the root, which comes after it
            if style is not None:
                # Every rank has the whole: it keeps its part, and nothing is sent.
                parallelize_module(module, self._ranks.tensor_mesh, style, src_data_rank=None)

    def own(self, name: str, whole: Tensor) -> Tensor:
        """This tensor rank's part of a parameter."""
        dimension = self._dimensions.get(name)
        return whole if dimension is None else whole.chunk(self._ranks.tensor, dimension)[self._ranks.tensor_rank]

    def copies(self, name: str) -> int:
        """How many ranks hold the same slice of a parameter."""
        return 1 if name in self._dimensions else self._ranks.tensor

    def add_up(self, parameters: dict[str, Any]) -> None:
        """Sums the gradients that tensor ranks have parts of; a collective, after the backward pass."""
        mesh = self._ranks.tensor_mesh
        for name in self._partial if mesh is not None else ():
            gradient = parameters[name].grad
            if gradient is not None and mesh is not None:
                dist.all_reduce(gradient.to_local(), group=mesh.get_group())

    def _check_heads(self, model: Any) -> None:
        config = model.config.get_text_config()
        for field in ("num_attention_heads", "num_key_value_heads"):
            size = getattr(config, field, None)
            if size is not None and size % self._ranks.tensor:
                raise self._refused(model, f"its {field} is {size}")

    def _refused(self, model: Any, why: str) -> LayoutError:
        return LayoutError(
            f"parallel.tensor = {self._ranks.tensor}: {type(model).__name__} cannot be cut so: {why}; use 1, or "
            "backend megatron"
        )


def joined(parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The tensor of `shape` that tensor ranks have parts of, or each the whole. Whoever reads it may have no plan."""
    if list(parts[0].shape) == list(shape):
        return parts[0]
    dimension = next(i for i, (part, whole) in enumerate(zip(parts[0].shape, shape, strict=True)) if part != whole)
    return torch.cat(list(parts), dimension)


def _planned(model: Any, layers: Sequence[Any]) -> Iterator[tuple[str, Any, str]]:
    """(name, module, style) of every module of a layer that the model's plan names."""
    plan = {re.compile(re.escape(p).replace(r"\*", r"\d+")): style for p, style in (model.tp_plan or {}).items()}
    inside = {module for layer in layers for module in layer.modules()}
    for name, module in model.named_modules():
        for pattern, style in plan.items():
            if module in inside and pattern.fullmatch(name):
                yield name, module, style
