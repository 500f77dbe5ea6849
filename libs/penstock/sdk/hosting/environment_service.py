"""`penstock.environment.v1.EnvironmentService` over a set of hosts: leased episodes, idempotent by request id.

Invariants (tests bear their names): a repeated step is not played twice; an episode that is not stepped within its
lease is closed; an environment's failure ends the episode as invalid, never with a reward.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from penstock.environment.v1 import environment_pb2 as pb
from penstock.environment.v1 import environment_pb2_grpc
from penstock.rpc import Violation, failed_precondition, invalid_argument, not_found, resource_exhausted, unavailable
from penstock.sdk.environments import EpisodeLost, Host, Turn
from penstock.sdk.hosting.wire import finish_reason, message_from_proto, message_to_proto, parse_row, text
from penstock.sdk.samples import Invalid, Scored
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress

_open_episodes = metrics.gauge(metrics.EPISODES_OPEN, "Open episodes.", ["environment"])


@dataclass
class _Episode:
    name: str
    host: Host
    handle: str
    request_id: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    steps: dict[str, asyncio.Task[pb.StepResponse]] = field(default_factory=dict)
    turns: int = 0
    over: bool = False
    expiry: asyncio.TimerHandle | None = None


class EnvironmentService(environment_pb2_grpc.EnvironmentServiceServicer):
    """Serves environments by name.

    Args:
        lease_seconds: an episode that is not stepped for this long is closed.
        max_episodes: open episodes at once; more are refused.
    """

    def __init__(self, hosts: Iterable[Host], *, lease_seconds: float = 120.0, max_episodes: int = 1024) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._lease_seconds = lease_seconds
        self._max_episodes = max_episodes
        self._episodes: dict[str, _Episode] = {}
        self._resets: dict[str, asyncio.Task[pb.ResetResponse]] = {}
        self._beginning = 0  # episodes that are none yet
        self._closing: set[asyncio.Task[None]] = set()

    async def ListEnvironments(  # noqa: N802
        self, request: pb.ListEnvironmentsRequest, context: Any
    ) -> pb.ListEnvironmentsResponse:
        """See the proto."""
        response = pb.ListEnvironmentsResponse()
        for host in self._hosts.values():
            response.environments.add(name=host.name, summary=host.summary, max_turns=host.max_turns)
        return response

    async def Reset(self, request: pb.ResetRequest, context: Any) -> pb.ResetResponse:  # noqa: N802
        """See the proto. Concurrent repetitions share one episode; a failed one is forgotten."""
        known = self._resets.get(request.request_id)
        if known is None:
            known = self._resets[request.request_id] = asyncio.create_task(self._reset(request))
            known.add_done_callback(lambda task: self._forget_failed(request.request_id, task))
        return await asyncio.shield(known)

    def _forget_failed(self, request_id: str, task: asyncio.Task[pb.ResetResponse]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._resets.pop(request_id, None)

    async def _reset(self, request: pb.ResetRequest) -> pb.ResetResponse:
        host = self._hosts.get(request.environment)
        if host is None:
            served = ", ".join(sorted(self._hosts))
            raise not_found(
                f"no environment {request.environment!r} here; served: {served}",
                reason="ENVIRONMENT_UNKNOWN",
                metadata={"served": served},
            )
        if len(self._episodes) + self._beginning >= self._max_episodes:
            raise resource_exhausted(f"{self._max_episodes} episodes are open", reason="TOO_MANY_EPISODES")
        self._beginning += 1
        try:
            handle, messages = await host.reset(parse_row(request.row_json), request.seed)
        except ValueError as error:  # BadRow, or no JSON
            raise invalid_argument("the row does not fit", Violation("row_json", str(error))) from error
        except EpisodeLost as error:
            raise unavailable(f"the episode could not begin: {error}", reason="RESET_FAILED") from error
        finally:
            self._beginning -= 1
        name = uuid.uuid4().hex
        episode = self._episodes[name] = _Episode(name, host, handle, request.request_id)
        _open_episodes.labels(host.name).inc()
        self._renew(episode)
        response = pb.ResetResponse(episode=name, messages=[message_to_proto(message) for message in messages])
        response.lease.FromNanoseconds(int(self._lease_seconds * 1e9))
        return response

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:  # noqa: N802
        """See the proto. The step goes on if its caller leaves, and a repetition finds its answer."""
        episode = self._episodes.get(request.episode)
        if episode is None:
            raise not_found(f"no episode {request.episode!r}: unknown, closed, or its lease ran out")
        known = episode.steps.get(request.request_id)
        if known is None:
            if episode.over:
                raise failed_precondition("the episode is over", reason="EPISODE_OVER")
            known = episode.steps[request.request_id] = asyncio.create_task(self._step(episode, request))
        return await asyncio.shield(known)

    async def _step(self, episode: _Episode, request: pb.StepRequest) -> pb.StepResponse:
        async with episode.lock:
            if episode.over:
                raise failed_precondition("the episode is over", reason="EPISODE_OVER")
            if episode.expiry is not None:
                episode.expiry.cancel()
            try:
                action = message_from_proto(request.action)
                turn = await episode.host.step(episode.handle, action, finish_reason(request.finish_reason))
            except (EpisodeLost, ValueError) as error:
                turn = Turn(done=True, result=Invalid(str(error)))
            episode.turns += 1
            if not turn.done and episode.turns >= episode.host.max_turns:
                result = turn.result if turn.result is not None else Invalid("the episode did not end in time")
                turn = Turn(done=True, result=result)
            episode.over = turn.done
            self._renew(episode)
            progress()
            return _response(turn)

    async def Close(self, request: pb.CloseRequest, context: Any) -> pb.CloseResponse:  # noqa: N802
        """See the proto."""
        await self._close(request.episode)
        return pb.CloseResponse()

    def _renew(self, episode: _Episode) -> None:
        loop = asyncio.get_running_loop()
        if episode.name in self._episodes:
            episode.expiry = loop.call_later(self._lease_seconds, self._expire, episode.name)

    def _expire(self, name: str) -> None:
        task = asyncio.create_task(self._close(name), name=f"close expired episode {name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, name: str) -> None:
        episode = self._episodes.pop(name, None)
        if episode is None:
            return
        self._resets.pop(episode.request_id, None)
        if episode.expiry is not None:
            episode.expiry.cancel()
        _open_episodes.labels(episode.host.name).dec()
        await episode.host.close(episode.handle)

    async def close_all(self) -> None:
        """Closes every episode; for the end of the process."""
        for name in list(self._episodes):
            await self._close(name)
        await asyncio.gather(*self._closing, return_exceptions=True)


def _response(turn: Turn) -> pb.StepResponse:
    response = pb.StepResponse(done=turn.done, messages=[message_to_proto(message) for message in turn.messages])
    if isinstance(turn.result, Scored):
        response.reward = turn.result.value
        response.components.update({text(name): part for name, part in turn.result.components.items()})
        if turn.result.answer is not None:
            response.answer = text(turn.result.answer)
    elif isinstance(turn.result, Invalid):
        response.invalid_reason = text(turn.result.reason) or "invalid"
    return response
