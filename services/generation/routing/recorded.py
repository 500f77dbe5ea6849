"""Rows of routes, from the steps of an engine's worker to the requests they belong to: in vLLM's scheduler, on CPU.

vLLM's own (0.32) hands out every row by itself, which was a fifth of a small model's step; here a step's rows are laid
down in one piece a request, and handed out when there are enough of them for a chunk.

A prompt that was in the prefix cache is not computed again, so the rows of full blocks are remembered by their blocks'
hashes, for as many blocks as the cache has. What was forgotten, or never known, is unknown: nothing waits for a row.

Invariants (test names): rows follow each other without a gap; a row that was laid down is not written again, though its
token is computed again after an update; what a draft that was rejected left behind is handed out to nobody.
"""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from penstock.trajectories.routes import RouteShape, Rows

ENOUGH = 32
"""Rows that are handed out at once, but a request's first and last."""


class Step(NamedTuple):
    """What a worker computed: of each request tokens `starts` on, their rows [ends[i - 1], ends[i]) of `rows`. They
    are bytes: of so small an array numpy's own work, and pickle's, would be most of what recording costs."""

    starts: list[int]
    ends: list[int]
    rows: bytes


@dataclass
class _Request:
    """rows: the bytes of those of all tokens so far. told: how many were handed out, or nobody wants. stored: blocks
    that are remembered."""

    of: Any
    told: int
    rows: bytearray = field(default_factory=bytearray)
    stored: int = 0
    fresh: bool = True


@dataclass
class RecordedRoutes:
    """Stands where vLLM's scheduler has its connector for such outputs. block: tokens of a hashed block of the cache;
    blocks: how many it has."""

    shape: RouteShape
    block: int
    blocks: int
    _requests: dict[str, _Request] = field(default_factory=dict)
    _known: "collections.OrderedDict[Any, bytes]" = field(default_factory=collections.OrderedDict)

    def __post_init__(self) -> None:
        self._unknown = self.shape.unknown_rows(1).tobytes()
        self._block = self.block * len(self._unknown)

    def step(self, step: Step, names: Sequence[str], requests: Mapping[str, Any]) -> None:
        """Lays down a step's rows. names: whose. requests: vLLM's, by name; one that is gone is passed over."""
        cached, begin, size = list[tuple[_Request, int]](), 0, len(self._unknown)
        for name, start, end in zip(names, step.starts, step.ends, strict=True):
            own, first = self._requests.get(name), begin
            begin = end
            if own is None:
                if name not in requests:
                    continue
                request = requests[name]
                wanted = request.sampling_params.routed_experts_prompt_start
                own = self._requests[name] = _Request(request, wanted)
                if start:
                    cached.append((own, start))
            lacking = start * size - len(own.rows)
            if lacking > 0:
                own.rows += self._unknown * (start - len(own.rows) // size)
                lacking = 0
            own.rows += step.rows[first * size - lacking : end * size]
            if len(own.rows) >= (own.stored + 1) * self._block and not (cached and cached[-1][0] is own):
                self._remember(own)
        for own, start in cached:  # after all rows of the step: its own requests share blocks, too
            self._recall(own, start)
            self._remember(own)

    def take_output(self, request: Any, _: Any) -> Rows | None:
        """A request's rows that are to be told with its output."""
        own = self._requests.get(request.request_id)
        if own is None:
            return None
        size = len(self._unknown)
        end = min(len(own.rows) // size, request.num_tokens - 1)
        del own.rows[end * size :]
        ended = request.is_finished()
        if ended:
            del self._requests[request.request_id]
        if end <= own.told or not (ended or own.fresh or end - own.told >= ENOUGH):
            return None
        rows = np.frombuffer(bytes(own.rows[own.told * size :]), self.shape.dtype)
        own.told, own.fresh = end, False
        return rows.reshape(-1, self.shape.layers, self.shape.top)

    def request_finished(self, request: Any) -> None:
        """It stopped, and its last rows are about to be asked for; or it is to be computed again; or it was given up,
        and is forgotten with the next step."""

    def build_connector_meta(self, scheduled: Any, requests: Mapping[str, Any]) -> None:
        """Workers need to be told nothing. Who was given up is forgotten."""
        for name in [name for name in self._requests if name not in requests]:
            del self._requests[name]

    def reset(self) -> None:
        """The prefix cache is empty."""
        self._known.clear()
        for own in self._requests.values():  # what it has is of before, and its blocks are computed again
            own.stored = -(-len(own.rows) // self._block)

    def _remember(self, own: _Request) -> None:
        full = min(len(own.of.block_hashes), len(own.rows) // self._block)
        for at in range(own.stored, full):
            self._known[own.of.block_hashes[at]] = bytes(own.rows[at * self._block : (at + 1) * self._block])
        own.stored = max(own.stored, full)
        while len(self._known) > self.blocks:
            self._known.popitem(last=False)

    def _recall(self, own: _Request, start: int) -> None:
        for at in range(start // self.block):
            rows = self._known.get(own.of.block_hashes[at])
            if rows is not None:
                self._known.move_to_end(own.of.block_hashes[at])
                own.rows[at * self._block : (at + 1) * self._block] = rows
        own.stored = start // self.block
