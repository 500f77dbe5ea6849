"""A mixture's balance loss, put where its routers are: on whatever pipeline stage, without the loss function knowing.

    router's input ─► logits again ─► balance of each sequence ─► its gradient joins the input's, on the way back

The value is in no sum: what trains is the gradient. A micro-batch has whole sequences of one rank's (no tensor or
context parallelism), and each counts 1 / (sequences of the batch with a trained token), so that the batch may be cut
in any way. A token that sequences share counts once for each of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from penstock.objectives.router import balance
from services.learner.backends.packing.building import MicroBatch
from services.learner.interface.batch import Batch


class RouterBalance:
    """Adds `coefficient` times the balance, averaged over a model's routers, to what they are trained on.

    routers: this rank's, each with `weight` [experts, hidden]. top: experts of a token. layers: routers of all ranks
    together. scale: what the loss is multiplied by before its backward pass.
    """

    def __init__(
        self, routers: Sequence[Any], top: int, layers: int, coefficient: float, scale: Callable[[], float | Tensor]
    ) -> None:
        self._top, self._weight, self._scale = top, coefficient / layers, scale
        self._sequences = 0
        self._part: MicroBatch | None = None
        for router in routers:
            router.register_forward_pre_hook(self._enter)

    def batch(self, batch: Batch) -> None:
        """What the next micro-batches are of."""
        self._sequences = len(torch.unique(batch.sequence_of_token[batch.mask > 0]))

    def micro_batch(self, part: MicroBatch) -> None:
        """Which one the next forward pass, and its repetition in the backward pass, is of."""
        self._part = part

    def _enter(self, router: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._part is None or not torch.is_grad_enabled():
            return None
        hidden, *others = given
        part = self._part
        logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]).float(), router.weight.float())
        trained = torch.zeros(part.sequences, device=hidden.device)
        trained[part.sequence.unique()] = self._weight / max(self._sequences, 1)
        each = balance(logits, self._top, part.owners, part.sequences, part.places)
        loss = (each * trained).sum()
        return (_Joined.apply(hidden, loss, self._scale()), *others)


class _Joined(torch.autograd.Function):
    """`hidden` as it is; on the way back the loss's gradient, times `scale`, is asked for too."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, loss: Tensor, scale: float | Tensor) -> Tensor:
        ctx.scale, ctx.like = scale, loss.detach()
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, torch.ones_like(ctx.like) * ctx.scale, None
