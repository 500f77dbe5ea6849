"""The routes of one request, from vLLM's hands into chunks: sorted, without a gap, and never ahead of the tokens.

vLLM gives them with a request's last output; until then they grow in its state, from which they are taken chunk by
chunk. It forgets none where a prompt was in the prefix cache, and writes none anew where weights change in flight: a
row is always of the pass that drew from it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from penstock.trajectories.routes import RouteShape, packed
from penstock.trajectory.v1.trajectory_pb2 import Routes


def recorded_shape(config: Any) -> RouteShape:
    """What vLLM records of a model, given its configuration. Raises ValueError for one without experts."""
    from vllm.model_executor.layers.fused_moe.routed_experts_capturer import _get_routed_experts_shape

    layers, experts, top = _get_routed_experts_shape(config)
    return RouteShape(layers, top, experts)


class RequestRoutes:
    """Rows of a request from `first` on."""

    def __init__(self, shape: RouteShape, first: int) -> None:
        self._shape, self._next = shape, first
        self._waiting: list[np.ndarray[Any, Any]] = []

    def add(self, rows: Iterable[np.ndarray[Any, Any]]) -> None:
        """What vLLM has recorded since the last time, in order."""
        self._waiting += rows

    def take(self, inputs: int) -> Routes | None:
        """The rows up to that of the last of so many inputs; None where there is none yet. What lacks comes later."""
        if not self._waiting or inputs <= self._next:
            return None
        rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        taken, left = rows[: inputs - self._next], rows[inputs - self._next :]
        self._waiting = [left] if len(left) else []
        made = packed(self._shape, np.sort(taken.astype(self._shape.dtype, copy=False), axis=-1), self._next)
        self._next += len(taken)
        return made
