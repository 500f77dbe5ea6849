"""Against a resources server written to NeMo Gym's contract: its package (0.4.0) wants a newer Python than ours, under
which three servers of its own were tried by hand (docs/agents).

`/seed_session`, a tool at the path of its name, `/verify` with the row and the response; a cookie is the session.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from penstock.sdk.agents import AgentFailed, Task
from penstock.sdk.samples import Invalid, Scored
from services.environment_adapters.nemo_gym import made
from services.environment_adapters.policy_testing import policy, serving
from services.environment_adapters.unknown import Unknown

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
ROW = {
    "responses_create_params": {"input": [{"role": "user", "content": "count"}], "tools": [TOOL], "temperature": 0.2},
    "begins": 10,
    "expected": 15,
}
MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "done"}]}


def call(arguments: str, name: str = "add") -> dict[str, Any]:
    return {"type": "function_call", "call_id": "c1", "name": name, "arguments": arguments}


class Counter:
    """A counter for each session."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.verified: list[dict[str, Any]] = []

    def app(self) -> Starlette:
        paths = {"/seed_session": self.seed, "/add": self.add, "/verify": self.verify}
        return Starlette(routes=[Route(path, do, methods=["POST"]) for path, do in paths.items()])

    async def seed(self, request: Request) -> JSONResponse:
        session = secrets.token_hex(4)
        self.counts[session] = (await request.json())["begins"]
        response = JSONResponse({})
        response.set_cookie("session", session)
        return response

    async def add(self, request: Request) -> JSONResponse:
        try:
            self.counts[request.cookies["session"]] += int((await request.json())["count"])
        except (KeyError, TypeError, ValueError):
            return JSONResponse({"detail": "count is missing"}, status_code=422)
        return JSONResponse({"success": True})

    async def verify(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.verified.append(body)
        right = self.counts[request.cookies["session"]] == body["expected"]
        return JSONResponse({**body, "reward": float(right), "calls": 2})


async def test_tools_are_called_in_the_servers_session_and_it_verifies_all_that_was_said() -> None:
    counter = Counter()
    said = [[call('{"count": 2}'), call('{"count": 3}')], [MESSAGE]]
    async with serving(counter.app()) as url, policy(said) as (asked, endpoint):
        result = await made(url, {}).run(Task(ROW), endpoint, 30)
    assert isinstance(result, Scored) and result.value == 1.0 and result.components["calls"] == 2.0
    first, second = asked.asked
    assert "temperature" not in first, "the recipe's sampling holds"
    assert [each.get("type", "given") for each in second["input"]] == [
        "given", "function_call", "function_call", "function_call_output", "function_call_output",
    ]  # fmt: skip
    (verified,) = counter.verified
    assert verified["response"]["output"] == [*second["input"][1:], MESSAGE] and verified["begins"] == 10


async def test_what_a_tool_refuses_is_told_to_the_model() -> None:
    said = [[call("{}")], [call("{")], [MESSAGE]]
    async with serving(Counter().app()) as url, policy(said) as (asked, endpoint):
        result = await made(url, {}).run(Task(ROW), endpoint, 30)
    assert isinstance(result, Scored) and result.value == 0.0
    outputs = [json.loads(each["output"]) for each in asked.asked[-1]["input"] if "output" in each]
    assert outputs[0] == {"detail": "count is missing"} and "no JSON" in outputs[1]["error"]


async def test_a_conversation_has_an_end() -> None:
    async with serving(Counter().app()) as url, policy([[call('{"count": 1}')]] * 3) as (asked, endpoint):
        await made(url, {"max_steps": 3}).run(Task(ROW), endpoint, 30)
    assert len(asked.asked) == 3


async def test_a_server_of_another_kind_is_said_to_be_one() -> None:
    async with serving(Starlette()) as url, policy([]) as (_, endpoint):
        with pytest.raises(AgentFailed, match="has no /seed_session: a server with /reset and /step is not mapped"):
            await made(url, {}).run(Task(ROW), endpoint, 30)


async def test_a_row_of_another_kind_and_a_server_that_is_away_give_no_reward() -> None:
    async with policy([]) as (_, endpoint):
        result = await made("http://127.0.0.1:9", {}).run(Task({"index": 1}), endpoint, 30)
        assert isinstance(result, Invalid) and "responses_create_params" in result.reason
        with pytest.raises(AgentFailed, match="ConnectError"):
            await made("http://127.0.0.1:9", {}).run(Task(ROW), endpoint, 30)
    with pytest.raises(Unknown, match=r"did you mean max_steps\?"):
        made("http://127.0.0.1:9", {"max_step": 3})
    for steps in ("abc", 0, True, 1.5):
        with pytest.raises(Unknown, match="max_steps: .* is no whole number from 1"):
            made("http://127.0.0.1:9", {"max_steps": steps})
