"""The low-rank adapters of `adapters` on Megatron's linear layers.

    column-parallel (qkv, gate_up)        A [r, in] whole, B [out/t, r] a shard: no communication but A's gradient
    row-parallel (output, down)           A [r, in/t] a shard, B [out, r] whole: partial r-vectors are summed

A layer that Megatron fuses has one A for all of its parts (query, key and value share theirs, gate and up too) and B
cut as its weight is. So the product of a rank's shards *is* its shard of the change: merging for export needs no
message.

Traps that a test holds: a whole matrix's gradient is a partial sum under sequence parallelism (tagged, as norms are); a
sharded one must carry Megatron's attributes or the gradient norm counts tensor rank 0's part only; with recomputation
the first layer's input must ask for a gradient, or its adapters get none.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor

from penstock.recipes.sections import Lora
from services.learner.backends.common.adapters import TARGETS, drawn
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.interface.errors import UnsupportedModel

COLUMN = ("qkv", "gate_up")


class Adapter(torch.nn.Module):
    """B A x beside one linear layer, on this rank's shards. Parameters `a` and `b`; see above for their shapes."""

    def __init__(self, linear: Any, layer: int, target: str, settings: Lora, layout: RankGroups, seed: int) -> None:
        super().__init__()
        self.column, self.scale = target in COLUMN, settings.alpha / settings.rank
        self._tp, self._sequence = layout.groups.tp, layout.parallel.sequence_parallel
        size, rank = self._tp.size(), self._tp.rank()
        out_features, in_features = linear.weight.shape
        whole = drawn(layer, target, settings.rank, in_features if self.column else in_features * size, seed)
        a = whole if self.column else whole.chunk(size, 1)[rank].contiguous()
        self.a = torch.nn.Parameter(a.to(linear.weight))
        self.b = torch.nn.Parameter(linear.weight.new_zeros(out_features, settings.rank))
        if self.column:
            set_tensor_model_parallel_attributes(self.b, True, 0, 1)
            self.a.sequence_parallel = self._sequence
        else:
            set_tensor_model_parallel_attributes(self.a, True, 1, 1)
            self.b.sequence_parallel = self._sequence

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output; `x` is the layer's own input."""
        low = F.linear(x, self.a)
        if self.column:
            low = (
                gather_from_sequence_parallel_region(low, True, self._tp)
                if self._sequence
                else copy_to_tensor_model_parallel_region(low, self._tp)
            )
        else:
            low = (
                reduce_scatter_to_sequence_parallel_region(low, self._tp)
                if self._sequence
                else reduce_from_tensor_model_parallel_region(low, self._tp)
            )
        return F.linear(low, self.b) * self.scale

    def change(self) -> Tensor:
        """fp32: this rank's shard of the change of the weight."""
        return self.b.float() @ self.a.float() * self.scale


class Adapters:
    """The adapters of one rank's part of a model, whose other parameters are frozen."""

    def __init__(self, chunks: Sequence[Any], settings: Lora, layout: RankGroups, seed: int) -> None:
        """Raises UnsupportedModel for a target that experts have."""
        self._on = True
        self._of: dict[torch.nn.Parameter, Adapter] = {}
        for chunk in chunks:
            chunk.requires_grad_(False)
            if getattr(chunk, "score", None) is not None:
                chunk.score.requires_grad_(True)  # a reward model's head is new: there is nothing to adapt
            if getattr(chunk, "embedding", None) is not None:
                chunk.embedding.register_forward_hook(_ask_for_a_gradient)
            for layer in chunk.decoder.layers:
                for target in settings.targets:
                    if target in ("gate_up", "down") and hasattr(layer.mlp, "experts"):
                        raise UnsupportedModel(
                            f"lora.targets: {target} is an expert's, and experts have no adapters; use qkv, output"
                        )
                    linear = layer.get_submodule(TARGETS[target])
                    linear.lora = Adapter(linear, layer.layer_number - 1, target, settings, layout, seed)
                    linear.register_forward_hook(self._add)
                    self._of[linear.weight] = linear.lora

    def _add(self, linear: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor | None]) -> Any:
        return (output[0] + linear.lora(inputs[0]), *output[1:]) if self._on else output

    def merged(self, parameter: torch.nn.Parameter) -> Tensor:
        """The weight with its change, or as it is where nothing is adapted."""
        adapter = self._of.get(parameter)
        if adapter is None:
            return parameter.data
        return (parameter.data.float() + adapter.change()).to(parameter.dtype)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is its base: the reference, without a second copy of anything."""
        self._on = False
        try:
            yield
        finally:
            self._on = True


def _ask_for_a_gradient(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """A recomputed layer gets no gradient at all if none of its inputs asks for one."""
    return output.requires_grad_() if torch.is_grad_enabled() and not output.requires_grad else output
