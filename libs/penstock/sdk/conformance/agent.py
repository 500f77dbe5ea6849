"""The promises of a service that runs agents."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from penstock.environment.v1 import environment_pb2 as pb
from penstock.environment.v1 import environment_pb2_grpc
from penstock.rpc import FOREIGN, Security, call, channel, ready, translated
from penstock.sdk.conformance.promises import SECONDS, Report, expect, is_healthy_as, optional, refused, report_on

ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "1"}, "finish_reason": "stop"}]}


async def check_agent(
    address: str, *, agent: str = "", row: Mapping[str, Any] | None = None, security: Security | None = None
) -> Report:
    """Checks a service of agents; see `check_reward`. The model that they call answers "1" to everything."""
    async with (
        channel(address, security=security, transport=FOREIGN) as opened,
        _model() as (base_url, given),
    ):
        await ready(opened, address, within=10)
        stub = environment_pb2_grpc.AgentServiceStub(opened)
        name = agent

        async def run(**fields: Any) -> list[pb.RunResponse]:
            asked = {"agent": name, "row_json": json.dumps(dict(row or {}))} | fields
            request = pb.RunRequest(request_id="kit", base_url=base_url, key="kit-" + "k" * 40, seed=7, **asked)
            request.lifetime.FromSeconds(int(SECONDS))
            with translated():
                return [each async for each in stub.Run(request, timeout=SECONDS)]

        async def lists_itself() -> None:
            nonlocal name
            answer = await call(stub.ListAgents(pb.ListAgentsRequest(), timeout=SECONDS))
            names = [each.name for each in answer.agents]
            expect(bool(names) and (not agent or agent in names), f"it lists {names}")
            name = agent or names[0]

        async def ends_with_one_outcome() -> None:
            told = [each.WhichOneof("told") for each in await run()]
            expect(told[-1:] == ["outcome"] and told.count("outcome") == 1, f"the stream was {told}")

        async def says_how_it_ended() -> None:
            outcome = (await run())[-1].outcome
            kinds = [outcome.HasField("reward"), bool(outcome.invalid_reason), bool(outcome.failure)]
            expect(sum(kinds) == 1, f"the outcome has not one of reward, invalid_reason and failure: {outcome}")

        async def rewards_answers_that_it_was_given() -> None:
            earned = (await run())[-1].outcome.rewards
            strange = sorted(set(earned) - given)
            expect(not strange, f"it gives a reward to {strange}, which are ids of no answer of the model")

        async def refuses_an_unknown_agent() -> None:
            await refused(run(agent="no-such-agent"), grpc.StatusCode.NOT_FOUND)

        async def refuses_a_malformed_row() -> None:
            await refused(run(row_json="{not json"), grpc.StatusCode.INVALID_ARGUMENT)

        return await report_on(
            address,
            {
                "lists its agents": lists_itself,
                "is healthy": optional(is_healthy_as(opened, "penstock.environment.v1.AgentService")),
                "ends with one outcome": ends_with_one_outcome,
                "says how it ended": says_how_it_ended,
                "rewards no answer but those that it was given": rewards_answers_that_it_was_given,
                "refuses an unknown agent with NOT_FOUND": refuses_an_unknown_agent,
                "refuses a malformed row with INVALID_ARGUMENT": refuses_a_malformed_row,
            },
        )


@contextlib.asynccontextmanager
async def _model() -> AsyncIterator[tuple[str, set[str]]]:
    """The base URL of an OpenAI-compatible API that says "1", and the ids of the answers that it has given."""
    given: set[str] = set()
    server = await asyncio.start_server(functools.partial(_answer, given), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", given


async def _answer(given: set[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
            await reader.readexactly(int(fields.get(b"content-length", b"0")))
            name = f"chatcmpl-kit{len(given)}"
            given.add(name)
            model = {"id": name, "object": "chat.completion", "created": 0, "model": "kit"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            body = json.dumps({**model, **ANSWER, "usage": usage}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the agent has ended
    finally:
        writer.close()
