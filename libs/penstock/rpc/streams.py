"""Streams of answers end where they ran.

grpc.aio leaves the generator of a call that is cancelled between two answers to the garbage collector, which closes it
in another task: contexts that it holds (OpenTelemetry's) cannot be left there, and each such call logged a traceback,
"Failed to detach context". As a coroutine that writes, the call closes its generator itself.

Invariant (test name): a cancelled stream is closed, and says nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

Answers = Callable[[Any, Any], AsyncGenerator[Any, None]]


class Streams(grpc.aio.ServerInterceptor):
    """Must be the first interceptor: it closes what the others add to a stream."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        for kind in ("unary_stream", "stream_stream"):
            answers = getattr(handler, kind, None)
            if answers is not None and inspect.isasyncgenfunction(answers):
                return handler._replace(**{kind: _written(answers)})
        return handler


def _written(answers: Answers) -> Callable[[Any, Any], Awaitable[None]]:
    async def write(request: Any, context: Any) -> None:
        async with aclosing(answers(request, context)) as stream:
            async for answer in stream:
                try:
                    await context.write(answer)
                except grpc.aio.InternalError:
                    return  # the caller has left; the stream is closed, and there is nobody to tell

    return write
