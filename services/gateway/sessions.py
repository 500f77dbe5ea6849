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
    """A session until it is closed, then what was drawn in it alone. opening: how many wait for it to begin."""

    session: Session | None
    expiry: asyncio.TimerHandle
    closed: pb.CloseSessionResponse | None = None
    opening: int = 0


class Sessions:
    """means: by source of tasks, of samples that are trained and of those that are measured."""

    def __init__(self, means: Mapping[str, Mapping[trajectory_pb2.TaskKind, Means]], most: int = MOST) -> None:
        self._means, self._most = means, most
        self._held: dict[str, _Held] = {}

    async def begin(self, key: str, task: trajectory_pb2.GroupTask, index: int, seconds: float) -> None:
        """Opens the session once its engine can draw for it. One that has not begun when its caller leaves has never
        been, unless another one waits for the same. Raises Abort as `open`, and GenerationFailed."""
        session = self.open(key, task, index, seconds)
        held = self._held[key]
        held.opening += 1
        try:
            await session.ready()
        except BaseException:  # cancelled or refused, it goes on; nothing was drawn
            if held.opening == 1 and held.session is not None and self._held.get(key) is held:
                del self._held[key]
                held.expiry.cancel()
                _open_sessions.dec()
                await session.end()
            raise
        finally:
            held.opening -= 1

    def open(self, key: str, task: trajectory_pb2.GroupTask, index: int, seconds: float) -> Session:
        """The session, idempotent by key. Raises Abort for a source that is not in the recipe, for a key whose session
        was closed, or without room."""
        if key in self._held:
            session = self._held[key].session
            if session is None:
                raise rpc.failed_precondition("the key's session was closed", reason="SESSION_CLOSED")
            return session
        source = task.rollout.task.source
        if not task.HasField("rollout") or source not in self._means:
            known = ", ".join(self._means)
            text = f"source {source!r} has no agent in this recipe; sources of agents: {known}"
            raise rpc.invalid_argument(text, rpc.Violation("task.rollout.task.source", text))
        if sum(held.session is not None for held in self._held.values()) >= self._most:
            raise rpc.resource_exhausted(f"{self._most} sessions are open", reason="TOO_MANY_SESSIONS")
        session = Session(self._means[source][task.kind], task, index, time.monotonic() + seconds)
        expiry = asyncio.get_running_loop().call_later(seconds, self._expire, key)
        self._held[key] = _Held(session, expiry)
        _open_sessions.inc()
        return session

    def of(self, key: str) -> Session:
        """The session that a key opens. Raises KeyUnknown."""
        held = self._held.get(key)
        if held is None or held.session is None:
            raise KeyUnknown("the key is of no open session: it is wrong, or its sample has ended")
        return held.session

    async def close(self, key: str) -> pb.CloseSessionResponse:
        """Ends a session; what was drawn in it. Raises Abort where there is none."""
        held = self._held.get(key)
        if held is None:
            raise rpc.not_found("no such session: unknown, over, or of a gateway before this one", reason="NO_SESSION")
        if held.session is not None:
            closed = await _closed(held.session)
            if held.session is not None:  # whoever closes it at once with this one comes to the same
                held.closed, held.session = closed, None
                held.expiry.cancel()
                if self._held.get(key) is held:
                    _open_sessions.dec()
                    held.expiry = asyncio.get_running_loop().call_later(REMEMBERED_SECONDS, self._expire, key)
        assert held.closed is not None, "a session that is none any more was closed"
        return held.closed

    def _expire(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None and held.session is not None:
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
