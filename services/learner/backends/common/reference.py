"""The weights that a method compares with: a policy's first ones, or ones that follow it.

A reference that follows is state, saved and restored beside the policy as a model of its own (`checkpoints.REFERENCE`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from services.learner.backends.common.host_memory import at_home


class ReferenceWeights:
    """A copy of `parameters` (by name) as they are now: once more their memory, and a third time while it is in place;
    both on the host if that is wanted.

    Attributes:
      values: the reference, by the parameters' names; live memory.
      moves: how often it has followed, so that what was computed with it is known to be of another.
    """

    def __init__(self, parameters: Mapping[str, Tensor], on_host: bool = False) -> None:
        self._parameters = dict(parameters)
        self._on_host = on_host
        self.values = self._copies()
        self.moves = 0
        self._aside: dict[str, Tensor] = {}  # host memory is pinned once

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have the reference's values."""
        trained = self._set_aside()
        _copy(self.values, self._parameters)
        try:
            yield
        finally:
            _copy(trained, self._parameters)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """What the parameters are given inside is the reference's from then on; behind it they are what they were."""
        trained = self._set_aside()
        try:
            yield
            _copy(self._parameters, self.values)
            self.moves += 1
        finally:
            _copy(trained, self._parameters)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """reference = share · parameters + (1 − share) · reference, in fp32. Source: TR-DPO (Gorbatovski et al.
        2024)."""
        for name, value in self.values.items():
            trained = self._parameters[name].detach().to(value.device, torch.float32)
            value.copy_(torch.lerp(value.to(torch.float32), trained, share))
        self.moves += 1

    def _copies(self) -> dict[str, Tensor]:
        return {
            name: at_home(p.detach()) if self._on_host else p.detach().clone() for name, p in self._parameters.items()
        }

    def _set_aside(self) -> dict[str, Tensor]:
        if not self._on_host:
            return self._copies()
        _copy(self._parameters, self._aside)
        self._aside = self._aside or self._copies()
        return self._aside


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> None:
    for name, tensor in to.items():
        tensor.copy_(values[name].detach())
