"""Rows of routes, from the steps of an engine's worker to the requests they belong to: in vLLM's scheduler, on CPU.

vLLM's own (0.32) hands out every row by itself, which was a fifth of a small model's step; here a step's rows are laid
down in one piece a request, and handed out when there are enough of them for a chunk.

A prompt that was in the prefix cache is not computed again, so the rows of full blocks are remembered by their blocks'
hashes, for as many blocks as the cache has. What was forgotten, or never known, is unknown: nothing waits for a row.

Invariants (test names): rows follow each other without a gap; a row that was laid down is not written again, though its
token is computed again after an update; what a draft that was rejected left behind is handed out to nobody.
"""

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.trajectories.routes import RouteShape, Rows

ENOUGH = 16
"""Rows that are handed out at once, but a request's first and last."""


@dataclass(frozen=True)
class Step:
    """What a worker computed: of each request by `names`, tokens `starts` on, their rows [ends[i - 1], ends[i])."""

    names: list[str]
    starts: list[int]
    ends: list[int]
    rows: Rows


@dataclass
class _Request:
    """rows: of all tokens so far, `end` of them laid down. told: those that were handed out, or nobody wants. stored:
    blocks that are remembered."""

    rows: Rows
    told: int
    end: int = 0
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
    _known: "collections.OrderedDict[Any, Rows]" = field(default_factory=collections.OrderedDict)

    def step(self, step: Step, requests: Mapping[str, Any]) -> None:
        """Lays down a step's rows. requests: vLLM's, by name; one that is gone is passed over."""
        cached, begin = dict[str, int](), 0
        for name, start, end in zip(step.names, step.starts, step.ends, strict=True):
            rows, begin, request = step.rows[begin:end], end, requests.get(name)
            if request is None:
                continue
            own = self._requests.get(name)
            if own is None:
                wanted = request.sampling_params.routed_experts_prompt_start
                own = self._requests[name] = _Request(self.shape.unknown_rows(request.num_prompt_tokens + 64), wanted)
                if start:
                    cached[name] = start
            own.end = max(own.end, start)
            self._lay(own, rows[own.end - start :])
            if name not in cached:
                self._remember(own, request)
        for name, start in cached.items():  # after all rows of the step: its own requests share blocks, too
            self._recall(self._requests[name], start, requests[name])
            self._remember(self._requests[name], requests[name])

    def take_output(self, request: Any, _: Any) -> Rows | None:
        """A request's rows that are to be told with its output."""
        own = self._requests.get(request.request_id)
        if own is None:
            return None
        own.end = min(own.end, request.num_tokens - 1)
        ended = request.is_finished()
        if ended:
            del self._requests[request.request_id]
        if own.end <= own.told or not (ended or own.fresh or own.end - own.told >= ENOUGH):
            return None
        rows = own.rows[own.told : own.end].copy()
        own.told, own.fresh = own.end, False
        return rows

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
        for own in self._requests.values():
            own.stored = 0

    def _lay(self, own: _Request, rows: Rows) -> None:
        end = own.end + len(rows)
        if end > len(own.rows):
            larger = self.shape.unknown_rows(2 * end)
            larger[: own.end] = own.rows[: own.end]
            own.rows = larger
        own.rows[own.end : end] = rows
        own.end = end

    def _remember(self, own: _Request, request: Any) -> None:
        full = min(len(request.block_hashes), own.end // self.block)
        for at in range(own.stored, full):
            self._known[request.block_hashes[at]] = own.rows[at * self.block : (at + 1) * self.block].copy()
        own.stored = max(own.stored, full)
        while len(self._known) > self.blocks:
            self._known.popitem(last=False)

    def _recall(self, own: _Request, start: int, request: Any) -> None:
        for at in range(start // self.block):
            rows = self._known.get(request.block_hashes[at])
            if rows is not None:
                self._known.move_to_end(request.block_hashes[at])
                own.rows[at * self.block : (at + 1) * self.block] = rows
        own.stored = start // self.block
