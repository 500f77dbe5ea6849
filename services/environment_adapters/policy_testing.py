"""A policy that says what it was told to, by OpenAI's API, and a server for the block; nothing is drawn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from penstock.sdk.agents import Endpoint


@dataclass
class Policy:
    """says: answers in order, texts or, for `/v1/responses`, lists of output items; asked: the requests that came."""

    says: list[Any]
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def chat(self, request: Request) -> JSONResponse:
        self.asked.append(await request.json())
        message = {"role": "assistant", "content": self.says.pop(0)}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        about = {"id": "c", "object": "chat.completion", "created": 0, "model": "policy"}
        return JSONResponse({**about, "choices": [choice], "usage": usage})

    async def responses(self, request: Request) -> JSONResponse:
        self.asked.append(await request.json())
        about = {"id": "r", "object": "response", "status": "completed", "model": "policy"}
        return JSONResponse({**about, "output": self.says.pop(0)})


@asynccontextmanager
async def policy(says: Sequence[Any]) -> AsyncIterator[tuple[Policy, Endpoint]]:
    """The policy, and where an agent calls it."""
    made = Policy(list(says))
    routes = [Route(f"/v1/{path}", do, methods=["POST"]) for path, do in made_routes(made).items()]
    async with serving(Starlette(routes=routes)) as url:
        yield made, Endpoint(f"{url}/v1", "key")


def made_routes(made: Policy) -> dict[str, Any]:
    return {"chat/completions": made.chat, "responses": made.responses}


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The URL of an ASGI application for the block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="websockets-sansio"))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
