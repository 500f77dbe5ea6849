"""The live page: static files, the run as server-sent events, samples as JSON. It owns nothing; it asks the coordinator."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from penstock import rpc
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc

STATIC = pathlib.Path(__file__).parent / "static"
RECONNECT_SECONDS = 1.0


def app(stub: coordinator_pb2_grpc.CoordinatorServiceStub) -> Starlette:
    """The page of one run."""

    async def events(request: Request) -> Response:
        return StreamingResponse(_events(stub), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def samples(request: Request) -> Response:
        try:
            answer = await rpc.call(stub.ListSamples(pb.ListSamplesRequest(page_size=24), timeout=5))
        except rpc.RpcError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        return JSONResponse([_plain(s) for s in answer.samples])

    async def explain(request: Request) -> Response:
        try:
            answer = await rpc.call(stub.ExplainStall(pb.ExplainStallRequest(), timeout=10))
        except rpc.RpcError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        return JSONResponse(_plain(answer))

    async def index(request: Request) -> Response:
        return Response((STATIC / "index.html").read_bytes(), media_type="text/html")

    return Starlette(
        routes=[
            Route("/", index),
            Route("/events", events),
            Route("/samples", samples),
            Route("/explain", explain),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
    )


async def _events(stub: coordinator_pb2_grpc.CoordinatorServiceStub) -> AsyncIterator[str]:
    """The run whenever it changes; while the coordinator is away the page is told so and keeps what it shows."""
    while True:
        try:
            with rpc.translated():
                async for answer in stub.WatchRun(pb.WatchRunRequest()):
                    yield f"data: {json.dumps(_plain(answer.run))}\n\n"
        except rpc.RpcError as error:
            yield f"event: away\ndata: {json.dumps(str(error))}\n\n"
            await asyncio.sleep(RECONNECT_SECONDS)


def _plain(message: Any) -> dict[str, Any]:
    plain: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return plain
