"""State that lives on the host and visits the device: an optimizer's, between its steps; a reference's, all the time.

Of AdamW's numbers a device needs those of the slice that is being stepped. So their home is host memory (pinned where
CUDA is, so that copies do not go through a second buffer), and a step takes them through the device slice by slice:

    home ── slice i ──► device: step with torch's own AdamW ──► home, and into the model's weights

The update of a number asks for no other number, so the slices of a step give bit by bit what the whole would.
(Megatron's HybridDeviceOptimizer steps on the host instead, which is another kernel's rounding, keeps its state
elsewhere, and does nothing where there is no CUDA.)

Copies are queued on the current stream, behind the computation that they wait for; only the host's own reading needs
the queue to be empty, and `HostedState.step` ends so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
SLICE = 2**24
"""Numbers on the device at once: 192 MiB of moments and main weights."""
ALIGNED = 64
"""Slices of a tensor begin at a multiple of this: a CPU's vector instructions round unlike the ones for the rest."""


def at_home(tensor: Tensor) -> Tensor:
    """A copy on the host."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available()).copy_(tensor)


@dataclass(frozen=True)
class _Visit:
    """Numbers start … end−1 of `main` (a parameter of the optimizer), and their values on the device."""

    main: Tensor
    start: int
    end: int
    values: Tensor


class HostedState:
    """Keeps the state of `optimizer`, an AdamW of torch, on the host, and replaces its `step`.

    Between steps `optimizer.state` refers to tensors on the host. `main_weights`: parameters of the optimizer whose own
    values live there too (`home`), each with the flat memory of the model that has them after a step; the parameter is
    left with its shape and no memory.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, main_weights: Mapping[Tensor, Tensor] | None = None) -> None:
        """Raises ValueError for another optimizer."""
        if not isinstance(optimizer, torch.optim.AdamW):
            raise ValueError(
                f"offload: the optimizer's state can be kept on the host for torch's AdamW alone, and Megatron chose "
                f"{type(optimizer).__module__}.{type(optimizer).__name__}; leave 'optimizer' out of learner.offload"
            )
        self._optimizer, self._step = optimizer, optimizer.step
        self._targets = dict(main_weights or {})
        self._homes: dict[Tensor, Tensor] = {}
        for main in self._targets:
            self._homes[main] = at_home(main.detach())
            main.untyped_storage().resize_(0)
        optimizer.step = self.step

    def home(self, main: Tensor) -> Tensor | None:
        """The values of a main weight; None for a parameter whose values stay where they are."""
        return self._homes.get(main)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """As the optimizer's, of all parameters that have a gradient."""
        groups = self._optimizer.param_groups
        try:
            for group in groups:
                trained = [main for main in group["params"] if main.grad is not None]
                for main in trained:
                    self._begin(main, bool(group["fused"]))
                for visits in self._visits(trained):
                    self._take(group, visits)
                for main in trained:
                    self._optimizer.state[main]["step"] += 1
        finally:
            self._optimizer.param_groups = groups
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _begin(self, main: Tensor, fused: bool) -> None:
        """AdamW's state before the first step, where there is none."""
        if main not in self._optimizer.state:
            zeros = {key: at_home(torch.zeros(main.shape, dtype=main.dtype)) for key in MOMENTS}
            self._optimizer.state[main] = {"step": torch.zeros((), device=main.device if fused else "cpu"), **zeros}

    def _visits(self, mains: Sequence[Tensor]) -> Iterator[list[_Visit]]:
        """All numbers of `mains`, together no more on the device than there may be."""
        visits: list[_Visit] = []
        room = SLICE
        for main in mains:
            flat, start = self._homes.get(main, main.detach()).view(-1), 0
            while start < main.numel():
                fits = main.numel() - start <= room
                end = main.numel() if fits else start + room // ALIGNED * ALIGNED
                if end > start:
                    values = _arrive(flat[start:end], main) if main in self._homes else flat[start:end]
                    visits.append(_Visit(main, start, end, values))
                if not fits:
                    yield visits
                    visits, room = [], SLICE
                else:
                    room -= end - start
                start = end
        if visits:
            yield visits

    def _take(self, group: dict[str, Any], visits: Sequence[_Visit]) -> None:
        """One step of the numbers of `visits`."""
        states = self._optimizer.state
        for v in visits:
            state, grad = states[v.main], v.main.grad
            assert grad is not None
            v.values.grad = grad.view(-1)[v.start : v.end]
            moments = {key: _arrive(state[key].view(-1)[v.start : v.end], v.main) for key in MOMENTS}
            states[v.values] = {"step": state["step"].clone(), **moments}
        self._optimizer.param_groups = [{**group, "params": [v.values for v in visits]}]
        self._step()
        for v in visits:
            state, moments = states[v.main], states.pop(v.values)
            v.values.grad = None
            for key in MOMENTS:
                state[key].view(-1)[v.start : v.end].copy_(moments[key], non_blocking=True)
            if v.main in self._homes:
                self._targets[v.main][v.start : v.end].copy_(v.values)
                self._homes[v.main].view(-1)[v.start : v.end].copy_(v.values, non_blocking=True)


def _arrive(slice_: Tensor, main: Tensor) -> Tensor:
    """A copy on the parameter's device, whatever that is."""
    return slice_.to(main.device, non_blocking=True, copy=True)
