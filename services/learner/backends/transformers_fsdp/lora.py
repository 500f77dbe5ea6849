"""The low-rank adapters of `adapters` on the linear layers of a Hugging Face model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.recipes.sections import Lora
from services.learner.backends.common.adapters import drawn
from services.learner.interface.errors import UnsupportedModel

NAMES = {
    "qkv": ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"),
    "output": ("o_proj", "out_proj", "dense"),
    "gate_up": ("gate_proj", "up_proj", "gate_up_proj", "fc1", "dense_h_to_4h"),
    "down": ("down_proj", "fc2", "dense_4h_to_h"),
}
"""What transformers' models call the linear layers of each target."""


class Adapter(torch.nn.Module):
    """B A x beside one linear layer; `a` [r, in] may be shared with others, `b` [out, r]."""

    def __init__(self, a: torch.nn.Parameter, outputs: int, scale: float) -> None:
        super().__init__()
        self.a, self.scale = a, scale
        self.b = torch.nn.Parameter(a.new_zeros(outputs, a.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b) * self.scale

    def change(self) -> Tensor:
        """fp32 [out, in]: the whole change of the weight; a collective, for they are sharded by then."""
        a, b = (p.full_tensor() for p in (self.a, self.b))
        return b @ a * self.scale


class Adapters:
    """Freezes `model` and adds adapters to its layers; they are on `device`, whatever the model is on."""

    def __init__(self, model: Any, layers: Sequence[Any], settings: Lora, seed: int, device: Any) -> None:
        """Raises UnsupportedModel for a target that the model's layers do not have."""
        if not layers:
            raise UnsupportedModel(f"lora: {type(model).__name__} does not say which of its modules are layers")
        self._on = True
        model.requires_grad_(False)
        if model.get_output_embeddings() is None:
            model.score.requires_grad_(True)  # a reward model's head is new: there is nothing to adapt
        for i, layer in enumerate(layers):
            for target in settings.targets:
                linears = [m for name, m in _linears(layer) if name.rpartition(".")[2] in NAMES[target]]
                if not linears:
                    there = ", ".join(name for name, _ in _linears(layer)) or "none"
                    raise UnsupportedModel(
                        f"lora.targets: {target} is no linear layer of {type(layer).__name__}; there are: {there}"
                    )
                inputs = linears[0].in_features
                a = torch.nn.Parameter(drawn(i, target, settings.rank, inputs, seed).to(device))
                for linear in linears:
                    linear.lora = Adapter(a, linear.out_features, settings.alpha / settings.rank)
                    linear.register_forward_hook(self._add)
        self._of = {f"{name}.weight": m.lora for name, m in model.named_modules() if hasattr(m, "lora")}

    def _add(self, linear: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added: Tensor = output + linear.lora(inputs[0]) if self._on else output
        return added

    def merged(self, name: str, whole: Tensor) -> Tensor:
        """The whole weight `name` of the model with its change, or as it is where nothing is adapted; a collective."""
        adapter = self._of.get(name)
        return whole if adapter is None else whole + adapter.change()

    def named(self) -> Iterator[tuple[str, Any, Any]]:
        """(adapted weight, its sharded A, its sharded B)."""
        for name, adapter in self._of.items():
            yield name, adapter.a, adapter.b

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is its base: the reference, without a second copy of anything."""
        self._on = False
        try:
            yield
        finally:
            self._on = True


def is_adapter(name: str) -> bool:
    """Whether a parameter is of an adapter, which no Hugging Face model has; exports hold the merged weight."""
    return ".lora." in name


def _linears(layer: Any) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]
