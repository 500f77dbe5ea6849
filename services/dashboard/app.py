"""The live page: static files, the run as server-sent events, history, samples and stalls as JSON.

It owns nothing and keeps nothing: every answer is the coordinator's, or a file's of the folder of runs (see runs.py).
While the coordinator is away the page is told so and goes on showing what it knows.
"""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from penstock import rpc
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from services.dashboard.guarding import Guard
from services.dashboard.runs import STATIC, of_folder

RECONNECT_SECONDS = 1.0
SAMPLES = 24
STEPS_PER_PAGE = 500
STREAMS = 64
"""Pages that may follow the run at a time."""
# The page shows text that models wrote: nothing but our own files may ever run in it, and nobody may frame it.
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

Endpoint = Callable[[Request], Awaitable[Response]]


def app(
    stub: "coordinator_pb2_grpc.CoordinatorServiceAsyncStub | None",
    names: Collection[str] = (),
    key: str = "",
    runs: pathlib.Path | None = None,
) -> Starlette:
    """The page of one run, the page of a folder of runs, or both. names, key: who may see it (see guarding)."""
    routes = [*(() if stub is None else _of_run(stub)), *(() if runs is None else of_folder(runs))]
    if stub is None:
        routes.append(Route("/", _redirected))
    return Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=STATIC, follow_symlink=True))],
        middleware=[Middleware(_Headers), Middleware(Guard, names=names, key=key)],
    )


async def _redirected(request: Request) -> Response:
    return RedirectResponse("/runs")


def _of_run(stub: "coordinator_pb2_grpc.CoordinatorServiceAsyncStub") -> list[BaseRoute]:
    """The routes of one run's page."""
    watching = asyncio.Semaphore(STREAMS)

    async def events(request: Request) -> Response:
        if watching.locked():
            return JSONResponse({"error": f"{STREAMS} pages are open already"}, status_code=503)
        return StreamingResponse(
            _counted(watching, _events(stub)), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def history(request: Request) -> Response:
        try:
            asked = pb.ListStepsRequest(after=int(request.query_params.get("after", "0")), page_size=STEPS_PER_PAGE)
        except ValueError:
            return JSONResponse({"error": "after: must be a step, 0 or more"}, status_code=400)
        answer = await rpc.call(stub.ListSteps(asked, timeout=10))
        return JSONResponse({"steps": [_plain(s) for s in answer.steps], "more": answer.more})

    async def samples(request: Request) -> Response:
        answer = await rpc.call(stub.ListSamples(pb.ListSamplesRequest(page_size=SAMPLES), timeout=5))
        return JSONResponse([_plain(s) for s in answer.samples])

    async def sample(request: Request) -> Response:
        group, index = request.path_params["group"], request.path_params["index"]
        if not index.isdigit() or len(index) > len("4294967295") or int(index) >= 1 << 32:
            return JSONResponse({"error": "a sample is GROUP/INDEX"}, status_code=400)
        found = await rpc.call(stub.GetSample(pb.GetSampleRequest(group=group, index=int(index)), timeout=10))
        went = await rpc.call(stub.GetLineage(pb.GetLineageRequest(sample=f"{group}/{index}"), timeout=10))
        return JSONResponse({"sample": _plain(found.sample), "lineage": _plain(went)})

    async def explain(request: Request) -> Response:
        answer = await rpc.call(stub.ExplainStall(pb.ExplainStallRequest(), timeout=10))
        return JSONResponse(_plain(answer))

    async def versions(request: Request) -> Response:
        answer = await rpc.call(stub.ListVersions(pb.ListVersionsRequest(), timeout=10))
        return JSONResponse(_plain(answer))

    async def index(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    return [
        Route("/", index),
        Route("/events", events),
        Route("/history", _answered(history)),
        Route("/samples", _answered(samples)),
        Route("/samples/{group}/{index}", _answered(sample)),
        Route("/explain", _answered(explain)),
        Route("/versions", _answered(versions)),
    ]


async def _counted(room: asyncio.Semaphore, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events of one of at most STREAMS open pages."""
    async with room:
        async for event in events:
            yield event


class _Headers:
    """Adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)


def _answered(endpoint: Endpoint) -> Endpoint:
    """A coordinator that does not answer becomes a 503 with the reason."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (rpc.errors.NotFound, rpc.errors.InvalidArgument) as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        except rpc.RpcError as error:
            return JSONResponse({"error": str(error)}, status_code=503)

    return answered


async def _events(stub: "coordinator_pb2_grpc.CoordinatorServiceAsyncStub") -> AsyncIterator[str]:
    """The run whenever it changes; an `away` event while the coordinator does not answer."""
    while True:
        try:
            with rpc.translated():
                async for answer in stub.WatchRun(pb.WatchRunRequest()):
                    yield f"data: {json.dumps(_plain(answer.run))}\n\n"
        except rpc.RpcError as error:
            yield f"event: away\ndata: {json.dumps(str(error))}\n\n"
            await asyncio.sleep(RECONNECT_SECONDS)


def _plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
