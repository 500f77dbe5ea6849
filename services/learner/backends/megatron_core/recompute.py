"""Selective recomputation on Megatron: results that are cheap to compute again are let go once they have been used.

Of a layer what matrix products and attention gave is kept; the two norms' results and the MLP's activated product are
not: three to four of ten numbers, and no matrix product runs twice. When the gradient of what was made of them arrives,
they are computed again into the same tensors:

    x ─ norm ─► y ─ attention ─► z        forward: y is let go when z is there
                y again ◄─ grad z         backward: before anything of the attention asks for y

(Megatron's own recompute_modules does this for norms, but asks TransformerEngine, and has none for a dense MLP.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import CheckpointWithoutOutput
from megatron.core.transformer.mlp import MLP
from torch import Tensor


class Passing:
    """The result of one function, from its call until `let_go`."""

    def __init__(self) -> None:
        self._kept: CheckpointWithoutOutput | None = None

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return function(x)
        self._kept = CheckpointWithoutOutput(fp8=None)
        result: Tensor = self._kept.checkpoint(function, x)
        return result

    def let_go(self, module: torch.nn.Module, inputs: Any, output: tuple[Tensor, Tensor | None]) -> None:
        """A forward hook of the module that used the result; nothing else may have use for it."""
        if self._kept is not None:
            self._kept.discard_output_and_register_recompute(output[0])
            self._kept = None


def install(chunks: Sequence[Any]) -> None:
    """Of every layer; the configuration of `chunks` says `use_te_activation_func` (see model.megatron_config), with
    which an MLP hands its activation both halves at once."""
    for chunk in chunks:
        for layer in chunk.decoder.layers:
            _pass(layer.input_layernorm, "forward", layer.input_layernorm.forward, layer.self_attention)
            _pass(layer.pre_mlp_layernorm, "forward", layer.pre_mlp_layernorm.forward, layer.mlp)
            for mlp in layer.mlp.modules():  # itself, or the experts of a mixture
                if isinstance(mlp, MLP):
                    _pass(mlp, "activation_func", swiglu, mlp)


def _pass(owner: torch.nn.Module, name: str, function: Callable[[Tensor], Tensor], user: torch.nn.Module) -> None:
    passing = Passing()
    setattr(owner, name, partial(passing, function))
    user.register_forward_hook(passing.let_go)


def swiglu(x: Tensor) -> Tensor:
    """x [..., 2 f], gate and up side by side -> [..., f]."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up
