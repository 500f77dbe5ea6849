"""One sample that somebody's agent plays: a session of the gateway, the agent's run, and the contexts that it drew.

The session is closed whatever happens, and is what counts: an agent that says it succeeded, but whose engines failed,
has no reward.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial

import grpc

from penstock import rpc
from penstock.environment.v1 import environment_pb2 as env
from penstock.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from penstock.membership import preferred
from penstock.replicas.engines import GenerationFailed
from penstock.replicas.pool import Pool, Where, pool
from penstock.trajectories import TrajectoryError
from penstock.trajectories.branches import of_contexts
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.ending import ended
from services.rollout.failures import EnvironmentFailed, RewardFailed
from services.rollout.tools import Deadline, Gate, Tools

TURN_SECONDS = 2.0
"""After which a sample asks the next gateway for a session, where one is away or full."""
# Whoever asks for a longer pause than a turn would be asked again without any.
AWAY = rpc.Retry((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), longest=TURN_SECONDS / 2)
SECONDS = 30.0
"""For closing a session, and beyond an agent's own time for the call that runs it."""


@dataclasses.dataclass(frozen=True)
class Played:
    """What became of an agent: its own word, where it ran, and what its session has."""

    outcome: env.AgentOutcome
    place: str
    drawn: gateway_pb2.CloseSessionResponse


async def by_agent(tools: Tools, task: pb.GroupTask, index: int, deadline: Deadline) -> pb.Trajectory:
    """Plays sample `index` of a task. Raises GenerationFailed, EnvironmentFailed, RewardFailed, TrajectoryError."""
    name = task.rollout.task.environment
    if not await tools.places.some("an environment", on="environment", within=deadline.at - time.monotonic()):
        raise EnvironmentFailed("no environment service took part in the run until the group's deadline")
    began = time.monotonic()
    run = await played(tools, task, index, deadline.at)
    took = time.monotonic() - began
    outcome, drawn = run.outcome, run.drawn
    if outcome.invalid_reason:
        raise RewardFailed(f"{name}: {outcome.invalid_reason}")
    if not drawn.contexts:
        raise EnvironmentFailed(f"{name} ended without an answer of the model")
    if len(drawn.contexts) > tools.most_branches:
        raise TrajectoryError(
            f"{task.group}/{index} has {len(drawn.contexts)} contexts; rollout.max_branches is {tools.most_branches}"
        )
    components = [pb.RewardComponent(name=name, value=outcome.reward, weight=1.0)]
    components += [pb.RewardComponent(name=f"{name}.{part}", value=v) for part, v in sorted(outcome.components.items())]
    t = ended(of_contexts(header(task, index, tools.model), drawn.contexts), components, drawn.truncated)
    if outcome.HasField("answer"):
        t.answer = outcome.answer
    t.branch_rewards.extend(_earned(outcome, drawn, name))
    t.engine, t.environment_instance = drawn.engine, run.place
    generating = drawn.generating.ToNanoseconds() / 1e9
    t.timings.generating.FromNanoseconds(int(generating * 1e9))
    t.timings.environment.FromNanoseconds(int(max(0.0, took - generating) * 1e9))
    return t


def _earned(outcome: env.AgentOutcome, drawn: gateway_pb2.CloseSessionResponse, agent: str) -> list[float]:
    """What each context earned by itself; empty where the agent does not say. Raises EnvironmentFailed."""
    if not outcome.rewards:
        return []
    earned = [0.0] * len(drawn.contexts)
    for answer, value in outcome.rewards.items():
        place = drawn.answers.get(answer.rpartition("-")[2])
        if place is None:
            raise EnvironmentFailed(f"{agent} gives a reward to {answer!r:.80}, which is no answer of this sample")
        earned[place] += value
    return earned


async def gate_of(
    gateways: Pool[Gate], task: pb.GroupTask, index: int, until: float, avoided: Collection[str] = ()
) -> Gate:
    """The gateway of a sample, none of the avoided ones where there is another. Raises GenerationFailed."""
    if not await gateways.some("a gateway", on="gateway", within=until - time.monotonic()):
        raise GenerationFailed("no gateway took part in the run until the group's deadline")
    known = {gate.address: gate for gate in gateways}
    left = {address: gate for address, gate in known.items() if address not in avoided} or known
    return left[preferred(f"{task.group}/{index}", left)]


async def opened_by(
    gateways: Pool[Gate], task: pb.GroupTask, index: int, until: float, key: str
) -> tuple[Gate, gateway_pb2.OpenSessionResponse]:
    """A session at whichever gateway opens one: another is asked where one is away or full. Raises GenerationFailed."""
    opening, avoided = gateway_pb2.OpenSessionRequest(key=key, task=task, index=index), set[str]()
    opening.lifetime.FromNanoseconds(int(max(0.001, until - time.monotonic()) * 1e9))
    while True:
        gate = await gate_of(gateways, task, index, until, avoided)
        try:
            return gate, await rpc.retried(
                AWAY,
                min(until - time.monotonic(), TURN_SECONDS),
                partial(_open, gate, opening, until),
                what=f"a session for {task.group}/{index}",
                on=f"gateway {gate.address}",
            )
        except rpc.RpcError as error:
            if error.code not in AWAY.codes or time.monotonic() >= until:
                raise GenerationFailed(f"the gateway opens no session: {error}") from error
        if avoided >= {each.address for each in gateways}:
            avoided.clear()
        avoided.add(gate.address)


async def _open(
    gate: Gate, opening: gateway_pb2.OpenSessionRequest, until: float, _: float
) -> gateway_pb2.OpenSessionResponse:
    """One try, which has all of the sample's time: a session opens once an engine may draw for it."""
    return await rpc.call(gate.stub.OpenSession(opening, timeout=max(0.001, until - time.monotonic())))


async def played(tools: Tools, task: pb.GroupTask, index: int, until: float) -> Played:
    """Runs the agent of a sample to its end, `until` a time of time.monotonic() at the latest.

    Raises GenerationFailed where the session is lost or its engines failed, EnvironmentFailed for an agent that has no
    outcome.
    """
    key = secrets.token_urlsafe(32)
    closing = gateway_pb2.CloseSessionRequest(key=key)
    gate, opened = await opened_by(tools.gateways, task, index, until, key)
    outcome, place, died = env.AgentOutcome(), "", None
    try:
        outcome, place = await _run(tools, task, index, f"{opened.url}/v1", key, until)
    except EnvironmentFailed as error:
        died = error
    finally:
        # Also where the sample is given back: what is drawn for nobody is not drawn on.
        drawn = await _closed(gate, closing)
    if isinstance(drawn, rpc.RpcError):
        raise GenerationFailed(f"the gateway has lost the session: {drawn}") from drawn
    if drawn.failure:
        raise GenerationFailed(drawn.failure)
    if died is not None:
        raise died
    return Played(outcome, place, drawn)


async def _closed(
    gate: Gate, request: gateway_pb2.CloseSessionRequest
) -> gateway_pb2.CloseSessionResponse | rpc.RpcError:
    try:
        return await rpc.retried(
            AWAY,
            SECONDS,
            lambda left: rpc.call(gate.stub.CloseSession(request, timeout=left)),
            what="what an agent has drawn",
            on=f"gateway {gate.address}",
        )
    except rpc.RpcError as error:
        return error


async def _run(
    tools: Tools, task: pb.GroupTask, index: int, base_url: str, key: str, until: float
) -> tuple[env.AgentOutcome, str]:
    """The agent's word, and where it ran. One that is away before it began the agent is asked again, or another that
    has come in its place."""
    asked = task.rollout.task
    request = env.RunRequest(
        request_id=f"{task.run}/{task.group}/{index}",
        agent=asked.environment,
        row_json=asked.row_json,
        messages=asked.messages,
        seed=task.seed + index,
        base_url=base_url,
        key=key,
    )
    told: list[env.RunResponse] = []

    async def attempt(left: float) -> tuple[env.AgentOutcome, str]:
        if not await tools.places.some("an environment", on="environment", within=left):
            raise EnvironmentFailed("no environment service took part in the run until the group's deadline")
        place = tools.place(task, index)
        assert place.agents is not None, "the places of an agent run agents"
        request.lifetime.FromNanoseconds(int(left * 1e9))
        call = place.agents.Run(request, timeout=left + SECONDS)
        try:
            with rpc.translated():
                async for each in call:
                    told.append(each)
        except rpc.RpcError as error:
            if told:  # it had begun: what it did cannot be done again in this session
                raise EnvironmentFailed(f"the agent was lost: {error}") from error
            raise
        finally:
            call.cancel()  # one that has ended is left as it is
        return _outcome(told), place.address

    try:
        left = max(0.001, until - time.monotonic())
        return await rpc.retried(AWAY, left, attempt, what=f"agent {asked.environment}", on="environment")
    except rpc.RpcError as error:
        raise EnvironmentFailed(str(error)) from error


def _outcome(told: list[env.RunResponse]) -> env.AgentOutcome:
    if not told or not told[-1].HasField("outcome"):
        raise EnvironmentFailed("the agent's stream ended without an outcome")
    outcome = told[-1].outcome
    if outcome.failure:
        raise EnvironmentFailed(outcome.failure)
    if not outcome.invalid_reason and not outcome.HasField("reward"):
        raise EnvironmentFailed("the agent gave no reward")
    return outcome


@asynccontextmanager
async def gateways_of(where: Where, security: rpc.Security) -> AsyncIterator[Pool[Gate]]:
    """The run's gateways, over open channels."""

    @asynccontextmanager
    async def opened(address: str) -> AsyncIterator[Gate]:
        async with rpc.channel(address, security=security) as channel:
            yield Gate(address, gateway_pb2_grpc.GatewayServiceStub(channel))

    async with pool(where, opened) as found:
        yield found
