"""Router replay: tokens go to the experts that the engine sent them to, and the routers learn from it.

The choice is the engine's; the weights of the chosen experts are this model's own, of its router's scores as they are
now, and so are the gradients. A token whose row is unknown is routed anew.

A hook stands where Megatron's own RouterReplay does, and takes nothing from it: that one keeps its rows in a global
list, by the order of calls, which a pipeline with recomputation breaks without a word. Here the rows come with the
micro-batch, on the pack that Megatron hands to every layer, also when it computes a layer again.

Invariant (test name): under every layout and recomputation, what is computed is what one process computes whose routers
are told the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.telemetry import steps


class RouterReplay:
    """Of the routers of one rank. layers: the transformer layers with them, in the order of `Pack.routes`. cut: the
    tensor ranks that share out a pack's tokens by sequence parallelism, as (how many, which one)."""

    def __init__(self, layers: Sequence[Any], experts: int, cut: tuple[int, int], device: torch.device) -> None:
        self._experts, self._cut, self._off = experts, cut, False
        self._counts = torch.zeros(2, dtype=torch.float64, device=device)
        for slot, layer in enumerate(layers):
            replay = _Replay(self, slot)
            layer.mlp.router.router_replay = replay
            layer.register_forward_pre_hook(replay.enter, with_kwargs=True)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, every token is routed anew: of weights that drew nothing."""
        self._off = True
        try:
            yield
        finally:
            self._off = False

    def begin(self) -> None:
        """A batch begins."""
        self._counts.zero_()

    def said(self) -> dict[str, float]:
        """Of the batch, the same on every rank; a collective."""
        if dist.get_world_size() > 1:
            dist.all_reduce(self._counts)
        known, apart = self._counts.tolist()
        return {steps.ROUTES_APART: apart / known if known else 0.0}

    def choose(self, given: Tensor, own: Tensor) -> Tensor:
        """given: [t, top] of the whole pack that this context rank has; own: [t / tensor ranks, top], what the router
        chooses now -> where the tokens go."""
        size, rank = self._cut
        given = given.chunk(size)[rank].to(torch.int64)
        known = ((given >= 0) & (given < self._experts)).all(-1, keepdim=True)
        if torch.is_grad_enabled():  # once a micro-batch, recomputed or not
            apart = (given.sort(-1).values != own.sort(-1).values).any(-1)
            self._counts += torch.stack([known.sum(), (known[:, 0] & apart).sum()])
        return torch.where(known, given, own)

    def rows(self, pack: Any) -> Tensor | None:
        """Of all layers, where they are to be replayed."""
        return None if self._off else pack.routes


class _Replay:
    """One router's: `router.router_replay`, as Megatron calls it."""

    def __init__(self, all_: RouterReplay, slot: int) -> None:
        self._all, self._slot, self._rows = all_, slot, None

    def enter(self, _: Any, __: Any, given: dict[str, Any]) -> None:
        """Before its layer's forward pass."""
        rows = self._all.rows(given["packed_seq_params"].pack)
        self._rows = None if rows is None else rows[:, self._slot]

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Callable[..., tuple[Tensor, Tensor]] = torch.topk,
    ) -> tuple[Tensor, Tensor]:
        """(scores [t, topk] of the chosen experts, these), given the router's scores [t, experts]."""
        best, own = default_compute_topk(scores, topk, num_groups=num_groups, group_topk=group_topk)
        if self._rows is None:
            return best, own
        chosen = self._all.choose(self._rows, own)
        return scores.gather(1, chosen), chosen
