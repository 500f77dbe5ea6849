"""The weights a policy was created with, kept so that the reference of a method can be scored later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class InitialWeights:
    """A copy of `parameters` as they are now: once more their memory, and a third time while it is in place."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._initial = [p.detach().clone() for p in self._parameters]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have their initial values."""
        trained = [p.detach().clone() for p in self._parameters]
        self._copy(self._initial)
        try:
            yield
        finally:
            self._copy(trained)

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
