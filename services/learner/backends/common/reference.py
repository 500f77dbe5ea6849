"""The weights a policy was created with, kept so that the reference of a method can be scored later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from services.learner.backends.common.host_memory import at_home


class InitialWeights:
    """A copy of `parameters` as they are now: once more their memory, and a third time while it is in place; both on
    the host if that is wanted."""

    def __init__(self, parameters: Sequence[Tensor], on_host: bool = False) -> None:
        self._parameters = list(parameters)
        self._on_host = on_host
        self._initial = self._copies()
        self._aside: list[Tensor] = []  # host memory is pinned once

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have their initial values."""
        trained = self._set_aside()
        self._copy(self._initial)
        try:
            yield
        finally:
            self._copy(trained)

    def _copies(self) -> list[Tensor]:
        return [at_home(p.detach()) if self._on_host else p.detach().clone() for p in self._parameters]

    def _set_aside(self) -> list[Tensor]:
        if not self._on_host:
            return self._copies()
        for kept, parameter in zip(self._aside, self._parameters, strict=False):
            kept.copy_(parameter.detach())
        self._aside = self._aside or self._copies()
        return self._aside

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
