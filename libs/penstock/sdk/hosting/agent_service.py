"""`penstock.environment.v1.AgentService` over a set of hosts.

Invariants (tests bear their names): an agent ends with its call; every run has one outcome, the last of its stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from penstock.environment.v1 import environment_pb2 as pb
from penstock.environment.v1 import environment_pb2_grpc
from penstock.rpc import Violation, invalid_argument, not_found, resource_exhausted
from penstock.sdk.agents import AgentFailed, AgentHost, Endpoint, Task
from penstock.sdk.hosting.wire import message_from_proto, parse_row, text
from penstock.sdk.samples import Invalid, Result
from penstock.telemetry.waits import progress

LIFE_SECONDS = 10.0
"""How often a caller hears that its agent is still running."""


class AgentService(environment_pb2_grpc.AgentServiceServicer):
    """Serves agents by name. at_once: agents that run or wait for a worker."""

    def __init__(self, hosts: Iterable[AgentHost], *, at_once: int = 4096) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._at_once, self._running = at_once, 0

    async def ListAgents(  # noqa: N802
        self, request: pb.ListAgentsRequest, context: Any
    ) -> pb.ListAgentsResponse:
        """See the proto."""
        agents = (pb.AgentDescription(name=each.name, summary=each.summary) for each in self._hosts.values())
        return pb.ListAgentsResponse(agents=agents)

    async def Run(self, request: pb.RunRequest, context: Any) -> AsyncIterator[pb.RunResponse]:  # noqa: N802
        """See the proto."""
        host = self._hosts.get(request.agent)
        if host is None:
            served = ", ".join(sorted(self._hosts))
            text = f"no agent {request.agent!r} here; served: {served or 'none'}"
            raise not_found(text, reason="AGENT_UNKNOWN", metadata={"served": served})
        if self._running >= self._at_once:
            raise resource_exhausted(f"{self._at_once} agents are running", reason="TOO_MANY_AGENTS")
        running = asyncio.create_task(_outcome(host, _task(request), request))
        self._running += 1
        try:
            yield pb.RunResponse(progress="begun")
            while not (await asyncio.wait([running], timeout=LIFE_SECONDS))[0]:
                yield pb.RunResponse(progress="running")
            yield pb.RunResponse(outcome=running.result())
        finally:
            self._running -= 1
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        progress()


def _task(request: pb.RunRequest) -> Task:
    try:
        row = parse_row(request.row_json)
        return Task(row, tuple(message_from_proto(message) for message in request.messages), request.seed)
    except ValueError as error:
        raise invalid_argument("the task does not fit", Violation("row_json", str(error))) from error


async def _outcome(host: AgentHost, task: Task, request: pb.RunRequest) -> pb.AgentOutcome:
    seconds = request.lifetime.ToNanoseconds() / 1e9
    try:
        result: Result = await host.run(task, Endpoint(request.base_url, request.key), seconds)
    except AgentFailed as error:
        return pb.AgentOutcome(failure=text(str(error)))
    if isinstance(result, Invalid):
        return pb.AgentOutcome(invalid_reason=text(result.reason) or "the agent gave no reason")
    components = {text(name): value for name, value in result.components.items()}
    answer = None if result.answer is None else text(result.answer)
    rewards = {text(name): value for name, value in result.rewards.items()}
    return pb.AgentOutcome(reward=result.value, components=components, answer=answer, rewards=rewards)
