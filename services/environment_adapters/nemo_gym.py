"""`nemo_gym:<url>`: a resources server of NeMo Gym, over HTTP: its tools are called, and it verifies what was said.

A row is one of NeMo Gym's data: `responses_create_params` (what the model is asked, and its tools) and whatever else
`/verify` wants. The policy is asked by `/v1/responses`; a call of a tool is a POST to the path of its name, and what
that says, errors too, is the call's output. Cookies carry the server's session. Numbers beside the reward become
components.

Not mapped: agents and models of NeMo Gym's own configuration, several resources servers, its Gymnasium kind of server
(/reset and /step in place of /seed_session and /verify), parameters of sampling in a row (the recipe's hold).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from penstock.sdk.agents import Agent, Endpoint, Task
from penstock.sdk.samples import Invalid, Scored
from services.environment_adapters.unknown import Unknown, check_known

STEPS = 16
SETTINGS = ("max_steps",)
KEPT = ("input", "instructions", "tools", "parallel_tool_calls")
"""Of `responses_create_params`, what the policy is sent; the rest is the recipe's."""


def check(identity: str, settings: Mapping[str, Any]) -> None:
    """What can be known without the server. Raises Unknown."""
    parts = urlsplit(identity)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unknown(f"{identity!r} is no URL of a server; write nemo_gym:http://HOST:PORT")
    for name in settings:
        check_known("environment.settings of nemo_gym", name, SETTINGS)
    steps = settings.get("max_steps", STEPS)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise Unknown(f"environment.settings.max_steps: {steps!r} is no whole number from 1")


def made(identity: str, settings: Mapping[str, Any]) -> Agent:
    """The agent of a resources server. Raises Unknown."""
    check(identity, settings)
    steps: int = settings.get("max_steps", STEPS)

    async def play(task: Task, endpoint: Endpoint) -> Scored | Invalid:
        asked = task.row.get("responses_create_params")
        if not isinstance(asked, Mapping) or "input" not in asked:
            return Invalid("the row has no responses_create_params with input, as NeMo Gym's data has")
        shown = {"authorization": f"Bearer {endpoint.key}"}
        async with (
            httpx.AsyncClient(base_url=identity, timeout=None) as server,
            httpx.AsyncClient(base_url=endpoint.base_url, headers=shown, timeout=None) as policy,
        ):
            seeded = await server.post("/seed_session", json=dict(task.row))
            if seeded.status_code == httpx.codes.NOT_FOUND:
                raise RuntimeError(f"{identity} has no /seed_session: a server with /reset and /step is not mapped")
            seeded.raise_for_status()
            answer = await _conversation(server, policy, asked, steps)
            verified = await server.post("/verify", json={**task.row, "response": answer})
            verified.raise_for_status()
            return _scored(verified.json())

    return Agent(play, identity, f"NeMo Gym's {identity}.", "endpoint")


async def _conversation(
    server: httpx.AsyncClient, policy: httpx.AsyncClient, asked: Mapping[str, Any], steps: int
) -> dict[str, Any]:
    """The last response, whose output is all that was said and done after what was asked."""
    given, said = asked["input"], list[dict[str, Any]]()
    begun = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    request = {"model": "policy", **{key: asked[key] for key in KEPT if key in asked}}
    response: dict[str, Any] = {}
    for _ in range(steps):
        got = await policy.post("/responses", json={**request, "input": [*begun, *said]})
        if got.is_error:
            raise RuntimeError(f"the policy was not drawn from: {got.status_code} {got.text:.200}")
        response = got.json()
        said += response["output"]
        calls = [each for each in response["output"] if each["type"] == "function_call"]
        if response.get("status") == "incomplete" or not calls:
            break
        for call in calls:
            said.append(
                {"type": "function_call_output", "call_id": call["call_id"], "output": await _output(server, call)}
            )
    return {**response, "output": said}


async def _output(server: httpx.AsyncClient, call: Mapping[str, Any]) -> str:
    try:
        arguments = json.loads(call["arguments"])
    except ValueError as error:
        return json.dumps({"error": f"the arguments are no JSON: {error}"})
    return (await server.post(f"/{quote(call['name'], safe='')}", json=arguments)).text


def _scored(verified: Mapping[str, Any]) -> Scored:
    numbers = {k: float(v) for k, v in verified.items() if isinstance(v, int | float) and k != "reward"}
    return Scored(float(verified["reward"]), numbers)
