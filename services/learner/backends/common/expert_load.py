"""How evenly a mixture's experts are used in training: counts of the tokens that each router sent to each expert.

Only passes with a gradient are counted, which a micro-batch has once, recomputed or not. A token that sequences share,
and one that fills up a pack, counts as it is computed.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.objectives.router import load
from penstock.telemetry import steps


class ExpertLoad:
    """Of a model's routers. routers: this rank's by the number of their layer, from 0, each with an output (scores,
    map bool [t, experts]). layers: of all ranks together."""

    def __init__(self, routers: Sequence[tuple[int, Any]], layers: int, experts: int, device: torch.device) -> None:
        self._counts = torch.zeros(layers, experts, dtype=torch.float64, device=device)
        for layer, router in routers:
            router.register_forward_hook(self._counting(layer))

    def begin(self) -> None:
        """A batch begins."""
        self._counts.zero_()

    def said(self) -> dict[str, float]:
        """Of the batch, the same on every rank; a collective."""
        if dist.get_world_size() > 1:
            dist.all_reduce(self._counts)
        entropy, largest, dead = load(self._counts)
        return {steps.EXPERTS_ENTROPY: entropy, steps.EXPERTS_LARGEST: largest, steps.EXPERTS_DEAD: dead}

    def _counting(self, layer: int) -> Any:
        def count(_: Any, __: Any, output: tuple[Tensor, Tensor]) -> None:
            if torch.is_grad_enabled():
                self._counts[layer] += output[1].detach().sum(0)

        return count
