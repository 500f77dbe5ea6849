"""The HTTP side: OpenAI's routes, each under /v1 with the session's key, or under /s/<key>/v1.

A call whose client has gone is ended; what it drew is no part of the sample.

Invariant (test name): whatever is sent, the answer is of OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from penstock.chat import ChatTokenizer
from services.gateway import chat_api, responses_api, sampling, text_api
from services.gateway.errors import CallRefused, KeyUnknown, NotFound
from services.gateway.http import ASKS_SECONDS
from services.gateway.responses_events import response_events
from services.gateway.session import Answer, Call, Session
from services.gateway.sessions import Sessions
from services.gateway.streaming import chat_events

LARGEST = 32 << 20
"""Bytes of a request."""
Written = Callable[[Answer, Mapping[str, Any], str, ChatTokenizer], dict[str, Any]]

T = TypeVar("T")


def app(sessions: Sessions) -> Starlette:
    """The routes over the open sessions."""
    door = _Door(sessions)
    routes = [
        Route("/chat/completions", door.chat, methods=["POST"]),
        Route("/completions", door.text, methods=["POST"]),
        Route("/responses", door.responses, methods=["POST"]),
        Route("/models", door.models, methods=["GET"]),
        Route("/models/{model:path}", door.models, methods=["GET"]),
    ]
    return Starlette(
        routes=[Mount("/v1", routes=routes), Mount("/s/{key}/v1", routes=routes), Route("/health", _health)],
        exception_handlers={
            CallRefused: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _left,
            Exception: _failed,
        },
    )


class _Door:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def chat(self, request: Request) -> Response:
        session, body = await self._asked(request)
        call = _read(chat_api.call_of, body)
        headers = _overridden(body, session)
        if body.get("stream"):
            events = chat_events(session, session.admit(call), body, _model(body, session))
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        return await _answered(request, session, call, body, headers, chat_api.completion)

    async def text(self, request: Request) -> Response:
        session, body = await self._asked(request)
        call = _read(text_api.call_of, body)
        return await _answered(request, session, call, body, _overridden(body, session), text_api.completion)

    async def responses(self, request: Request) -> Response:
        session, body = await self._asked(request)
        call = _read(responses_api.call_of, body)
        headers = _overridden(body, session, responses_api.left_out)
        if body.get("stream"):
            events = response_events(session, session.admit(call), body, _model(body, session))
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        return await _answered(request, session, call, body, headers, responses_api.response)

    async def models(self, request: Request) -> Response:
        session = self._sessions.of(_key(request))
        name = request.path_params.get("model")
        one = {"id": name or session.means.model, "object": "model", "created": 0, "owned_by": "penstock"}
        return JSONResponse(one if name else {"object": "list", "data": [one]})

    async def _asked(self, request: Request) -> tuple[Session, dict[str, Any]]:
        return self._sessions.of(_key(request)), await _body(request)


def _key(request: Request) -> str:
    """The session's key, as it is shown. Raises KeyUnknown."""
    told = str(request.path_params.get("key", ""))
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    if not told and scheme.lower() != "bearer":
        raise KeyUnknown("no key: show the session's as Authorization: Bearer KEY")
    return told or shown.strip()


async def _body(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises CallRefused."""
    raw = bytearray()
    try:
        async with asyncio.timeout(ASKS_SECONDS):
            async for piece in request.stream():
                raw += piece
                if len(raw) > LARGEST:
                    raise CallRefused(f"the request has more than {LARGEST} bytes")
    except TimeoutError as error:
        raise CallRefused(f"the request did not come whole within {ASKS_SECONDS:g} s") from error
    try:
        # Half surrogate pairs, which JSON can bring in, become question marks; what is no number is refused.
        plain = json.dumps(json.loads(bytes(raw)), ensure_ascii=False, allow_nan=False)
        body = json.loads(plain.encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise CallRefused(f"the request is no usable JSON: {error}") from error
    if not isinstance(body, dict):
        raise CallRefused("the request must be a JSON object")
    return body


def _read(by: Callable[[dict[str, Any]], T], body: Mapping[str, Any]) -> T:
    """What a request says, read by one who knows its API. Raises CallRefused, also for what nobody thought of."""
    try:
        return by(dict(body))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise CallRefused(f"the request is not as the API has it: {error}") from error


def _overridden(
    body: Mapping[str, Any], session: Session, left_out: Callable[..., list[str]] = sampling.left_out
) -> dict[str, str]:
    """Headers that say what was left out. Raises SamplingFixed."""
    sampled, overrides = session.task.rollout.sampling, session.means.overrides
    left = _read(lambda asked: left_out(asked, sampled, overrides), body)
    return {sampling.OVERRIDDEN: ", ".join(left)} if left else {}


def _model(body: Mapping[str, Any], session: Session) -> str:
    """The name that the client used: whatever it asks for is the policy."""
    return str(body.get("model") or session.means.model)


async def _answered(
    request: Request,
    session: Session,
    call: Call,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    written: Written,
) -> Response:
    answering = asyncio.create_task(session.answer(call, request.headers.get("idempotency-key", "")))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        answer = answering.result()
    finally:
        gone.cancel()
        answering.cancel()
    return JSONResponse(written(answer, body, _model(body, session), session.means.chat), headers=dict(headers))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, CallRefused)
    return error.response()


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refused = NotFound(f"{request.method} {request.url.path.rpartition('/v1')[2]}: {error.detail}")
    refused.status = error.status_code
    return refused.response()


async def _left(request: Request, error: Exception) -> Response:
    """Nobody reads it."""
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    """The boundary: a fault of ours is told without its insides; Starlette raises it again, and it is logged."""
    return JSONResponse(
        {"error": {"message": "the gateway failed", "type": "server_error", "param": None, "code": "internal_error"}},
        500,
    )
