"""The promises of an environment service."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import grpc

from penstock.common.v1 import common_pb2
from penstock.environment.v1 import environment_pb2, environment_pb2_grpc
from penstock.rpc import FOREIGN, Security, call, channel, ready
from penstock.sdk.conformance.promises import SECONDS, Report, expect, is_healthy_as, optional, refused, report_on


async def check_environment(
    address: str, *, environment: str = "", row: Mapping[str, Any] | None = None, security: Security | None = None
) -> Report:
    """Checks an environment service; see `check_reward`."""
    async with channel(address, security=security, transport=FOREIGN) as opened:
        await ready(opened, address, within=10)
        stub = environment_pb2_grpc.EnvironmentServiceStub(opened)
        name = environment
        text = json.dumps(dict(row or {}))

        async def reset(request_id: str) -> environment_pb2.ResetResponse:
            request = environment_pb2.ResetRequest(request_id=request_id, environment=name, row_json=text, seed=7)
            return await call(stub.Reset(request, timeout=SECONDS))

        async def step(episode: str, request_id: str) -> environment_pb2.StepResponse:
            action = common_pb2.Message(role="assistant", content="1")
            request = environment_pb2.StepRequest(request_id=request_id, episode=episode, action=action)
            return await call(stub.Step(request, timeout=SECONDS))

        async def lists_itself() -> None:
            nonlocal name
            answer = await call(stub.ListEnvironments(environment_pb2.ListEnvironmentsRequest(), timeout=SECONDS))
            names = [each.name for each in answer.environments]
            expect(bool(names) and (not environment or environment in names), f"it lists {names}")
            name = environment or names[0]

        async def resets_once_per_request() -> None:
            key = uuid.uuid4().hex
            first, second = await reset(key), await reset(key)
            expect(first == second, "the same request id gave two episodes")
            expect(bool(first.messages), "Reset gave no message")
            expect(first.lease.ToNanoseconds() > 0, "Reset gave no lease")

        async def steps_once_per_request() -> None:
            episode = (await reset(uuid.uuid4().hex)).episode
            first, second = await step(episode, "step-1"), await step(episode, "step-1")
            expect(first == second, f"a repeated step gave {second} after {first}")
            expect(first.done or bool(first.messages), "a step that does not end the episode gave no message")
            kinds = [first.HasField("reward"), bool(first.invalid_reason)]
            expect(not first.done or sum(kinds) == 1, "a finished episode needs a reward or an invalid reason")

        async def closes_more_than_once() -> None:
            episode = (await reset(uuid.uuid4().hex)).episode
            for _ in range(2):
                await call(stub.Close(environment_pb2.CloseRequest(episode=episode), timeout=SECONDS))
            await refused(step(episode, "late"), grpc.StatusCode.NOT_FOUND)

        async def refuses_an_unknown_environment() -> None:
            request = environment_pb2.ResetRequest(request_id="x", environment="no-such-environment")
            await refused(call(stub.Reset(request, timeout=SECONDS)), grpc.StatusCode.NOT_FOUND)

        return await report_on(
            address,
            {
                "lists its environments": lists_itself,
                "is healthy": optional(is_healthy_as(opened, "penstock.environment.v1.EnvironmentService")),
                "gives one episode per request id": resets_once_per_request,
                "plays a repeated step once": steps_once_per_request,
                "closes more than once and forgets": closes_more_than_once,
                "refuses an unknown environment with NOT_FOUND": refuses_an_unknown_environment,
            },
        )
