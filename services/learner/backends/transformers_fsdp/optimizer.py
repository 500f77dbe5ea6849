"""AdamW (and Muon) on the slices of a fully sharded model, with the guard of every learner around it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner.backends.common.host_memory import MOMENTS, HostedState, at_home
from services.learner.backends.optim.guard import Guard
from services.learner.backends.optim.muon import MOMENTUM, Muon
from services.learner.backends.transformers_fsdp.fully_sharded import own_slice, slice_of, whole_of
from services.learner.interface.policy_spec import PolicySpec


class ShardedOptimizer(Guard):
    """Steps with the scheduled learning rate; a step whose gradient norm is not finite changes nothing."""

    def __init__(
        self,
        spec: PolicySpec,
        parameters: Mapping[str, Any],
        hidden: Collection[str],
        copies: Mapping[str, int] | None = None,
    ) -> None:
        """parameters: sharded ones by name, those that are trained. hidden: the names of hidden matrices, which are
        Muon's if there is one. copies: how many ranks hold the same slice of one, 1 where it says nothing.

        Raises schedules.ScheduleError.
        """
        super().__init__(spec)
        settings, self._on_host = self.settings, spec.hosts_optimizer
        self._copies = dict(copies or {})
        self._parameters = dict(parameters)
        self._slices = {name: slice_of(p) for name, p in parameters.items()}
        self._muon = Muon(settings, _Matrices(self._parameters)) if settings.name == "muon" else None
        self._hidden = {n for n in parameters if n in hidden} if self._muon is not None else set()
        decays = {name: p.dim() > 1 for name, p in parameters.items() if name not in self._hidden}
        self._adam = torch.optim.AdamW(
            [
                {"params": [self._slices[n] for n, d in decays.items() if d], "weight_decay": settings.weight_decay},
                {"params": [self._slices[n] for n, d in decays.items() if not d], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )
        if self._on_host:
            HostedState(self._adam)

    def zero_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> tuple[bool, float]:
        """(taken, global gradient norm before clipping). The norm is equal on all ranks, so all take or skip.

        Raises NonFiniteGradients on every rank when `max_skipped` steps in a row are skipped.
        """
        rate = self.learning_rate
        self.steps += 1
        gradients = {n: slice_of(p.grad) for n, p in self._parameters.items() if p.grad is not None}
        if self.scale != 1:
            torch._foreach_mul_(list(gradients.values()), 1 / self.scale)
        norm = self._norm(gradients)
        if not math.isfinite(norm):
            self.skip(norm, [name for name, g in gradients.items() if not bool(torch.isfinite(g).all())])
            return False, norm
        self.taken()
        limit = self.settings.clip_gradient
        if 0 < limit < norm:
            torch._foreach_mul_(list(gradients.values()), limit / (norm + 1e-6))
        for group in self._adam.param_groups:
            group["lr"] = rate
        for name, piece in self._slices.items():
            if self._muon is not None and name in self._hidden:
                self._muon.step(name, piece, gradients[name], rate)
            else:
                piece.grad = gradients.get(name)
        self._adam.step()
        self._adam.zero_grad()
        return True, norm

    def _norm(self, gradients: Mapping[str, Tensor]) -> float:
        norms = torch._foreach_norm(list(gradients.values()))
        copies = [self._copies.get(name, 1) for name in gradients]
        squares = torch.stack([n.double().square() / k for n, k in zip(norms, copies, strict=True)]).sum()
        if dist.get_world_size() > 1:
            dist.all_reduce(squares)
        return math.sqrt(total) if math.isfinite(total := float(squares)) else total

    def state(self) -> dict[str, Any]:
        """This rank's shard, referring to live memory: {counters of the guard, "pieces": {name: {"exp_avg",
        "exp_avg_sq"}}}, the pieces after the first step taken; {"momentum"} of what Muon steps."""
        found = {
            name: {key: self._adam.state[piece][key] for key in MOMENTS}
            for name, piece in self._slices.items()
            if piece in self._adam.state
        }
        if self._muon is not None:
            found |= {name: state for name in self._hidden if (state := self._muon.state(name))}
        return {**self.counters(), "pieces": found}

    @torch.no_grad()
    def load_state(self, counters: Mapping[str, Any], get: Callable[[str, str], Tensor]) -> None:
        """Takes a state: `get(name, key)` gives what `state` calls `key`, as a tensor of this rank's slice."""
        taken = self.restore(counters)
        self._adam.state.clear()
        for name, piece in self._slices.items():
            if self._muon is not None and name in self._hidden:
                self._muon.load(name, get(name, MOMENTUM).to(piece, copy=True) if taken else None)
            elif taken:
                moments = {key: get(name, key) for key in MOMENTS}
                moments = {k: at_home(m) if self._on_host else m.to(piece, copy=True) for k, m in moments.items()}
                step = torch.tensor(float(taken), device=piece.device)
                self._adam.state[piece] = {"step": step, **moments}


class _Matrices:
    """`muon.Matrices` of sharded parameters: each is a Hugging Face matrix already."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters

    def whole(self, name: str, own: Tensor) -> Sequence[Tensor]:
        return [whole_of(self._parameters[name], own)]

    def own(self, name: str, whole: Sequence[Tensor]) -> Tensor:
        return own_slice(self._parameters[name], whole[0])
