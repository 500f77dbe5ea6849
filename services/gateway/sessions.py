"""The open sessions of one gateway, by their keys; each ends by itself when its time is over.

Invariant (test name): a key opens its own session alone, until that was closed or its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from penstock import rpc
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.telemetry import metrics
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.errors import KeyUnknown
from services.gateway.session import Means, Session

logger = logging.getLogger(__name__)
_open_sessions = metrics.gauge(metrics.SESSIONS_OPEN, "Open sessions of agents.")
MOST = 4096
"""Sessions at once."""
REMEMBERED_SECONDS = 60.0
"""How long what was drawn is given again, to a caller that lost the first answer."""


@dataclass
class _Held:
    session: Session
    expiry: asyncio.TimerHandle
    closed: pb.CloseSessionResponse | None = None


class Sessions:
    """means: by source of tasks, of samples that are trained and of those that are measured."""

    def __init__(self, means: Mapping[str, Mapping[trajectory_pb2.TaskKind, Means]], most: int = MOST) -> None:
        self._means, self._most = means, most
        self._held: dict[str, _Held] = {}

    def open(self, key: str, task: trajectory_pb2.GroupTask, index: int, seconds: float) -> Session:
        """The session, idempotent by key. Raises Abort for a source that is not in the recipe, or without room."""
        if key in self._held:
            return self._held[key].session
        source = task.rollout.task.source
        if not task.HasField("rollout") or source not in self._means:
            known = ", ".join(self._means)
            text = f"source {source!r} has no agent in this recipe; sources of agents: {known}"
            raise rpc.invalid_argument(text, rpc.Violation("task.rollout.task.source", text))
        if sum(held.closed is None for held in self._held.values()) >= self._most:
            raise rpc.resource_exhausted(f"{self._most} sessions are open", reason="TOO_MANY_SESSIONS")
        session = Session(self._means[source][task.kind], task, index, time.monotonic() + seconds)
        expiry = asyncio.get_running_loop().call_later(seconds, self._expire, key)
        self._held[key] = _Held(session, expiry)
        _open_sessions.inc()
        return session

    def of(self, key: str) -> Session:
        """The session that a key opens. Raises KeyUnknown."""
        held = self._held.get(key)
        if held is None or held.closed is not None:
            raise KeyUnknown("the key is of no open session: it is wrong, or its sample has ended")
        return held.session

    async def close(self, key: str) -> pb.CloseSessionResponse:
        """Ends a session; what was drawn in it. Raises Abort where there is none."""
        held = self._held.get(key)
        if held is None:
            raise rpc.not_found("no such session: unknown, over, or of a gateway before this one", reason="NO_SESSION")
        if held.closed is None:
            closed = await _closed(held.session)
            if held.closed is None:  # whoever closes it at once with this one comes to the same
                held.closed = closed
                held.expiry.cancel()
                if self._held.get(key) is held:
                    _open_sessions.dec()
                    held.expiry = asyncio.get_running_loop().call_later(REMEMBERED_SECONDS, self._expire, key)
        return held.closed

    def _expire(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None and held.closed is None:
            logger.info("a session's time is over", extra={"group": held.session.task.group})
            _open_sessions.dec()


async def _closed(session: Session) -> pb.CloseSessionResponse:
    contexts, answers = await session.end()
    response = pb.CloseSessionResponse(
        contexts=[each.fill(trajectory_pb2.Branch()) for each in contexts],
        engine=session.engine,
        calls=session.answered,
        truncated=session.truncated,
        failure=session.failure,
        answers=answers,
    )
    response.generating.FromNanoseconds(int(session.generating * 1e9))
    return response
