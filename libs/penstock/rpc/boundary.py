"""The one interceptor of every server: between the wire and a handler.

In order: the caller is authorised (before anything of its request is read, where a token says who it is), it gets a
place within its kind's quota, a call without a deadline gets the server's and is counted, the size of each message is
compared with the method's, its bytes are decoded (malformed ones are INVALID_ARGUMENT, where grpc.aio itself says
UNKNOWN) and validated, an `Abort` becomes its status, and any other exception becomes INTERNAL with an incident id: its
text stays in the log, never on the wire.

Handlers are coroutines or asynchronous generators. A unary handler that is a plain function runs in a thread, so that
blocking code cannot stop the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from penstock.access import ANYBODY, LARGEST, QUOTAS, rule_of
from penstock.rpc import validation
from penstock.rpc.errors import Abort, deadline_exceeded, invalid_argument, resource_exhausted
from penstock.rpc.quotas import Quotas
from penstock.rpc.security import Security
from penstock.telemetry import metrics

logger = logging.getLogger(__name__)
HEALTH = "/grpc.health.v1.Health/"
Context = grpc.aio.ServicerContext[Any, Any]

_no_deadline = metrics.counter(metrics.CALLS_WITHOUT_DEADLINE, "Calls that came without a deadline.", ["method"])
_calls_refused = metrics.counter(
    metrics.CALLS_REFUSED, "Calls of strangers, and of those who may not make them.", ["method"]
)
_incidents = metrics.counter(metrics.INCIDENTS, "Calls that failed by an unexpected exception.", ["method"])


_caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default=ANYBODY)


def caller() -> str:
    """Who makes the call that is being answered here: a kind, or ANYBODY."""
    return _caller.get()


class Boundary(grpc.aio.ServerInterceptor):
    """See the module. Default deadlines are in seconds, one for unary calls and one for streams."""

    def __init__(self, security: Security, unary_seconds: float, stream_seconds: float) -> None:
        self._security = security
        self._quotas = Quotas(QUOTAS)
        self._unary_seconds = unary_seconds
        self._stream_seconds = stream_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(HEALTH):
            return handler
        authorization = dict(handler_call_details.invocation_metadata or ()).get("authorization")
        try:
            caller = self._security.by_token(method, authorization)
        except Abort as refusal:
            return _refused(self._told(method, refusal))
        return _Guarded(self, method, handler, caller).handler()

    @contextmanager
    def place(self, method: str, caller: str, context: Context) -> Iterator[None]:
        """The call is authorised, and has a place in its kind's quota for the block. Raises an Abort."""
        try:
            caller = self._security.by_certificate(method, caller, context.auth_context())
        except Abort as refusal:
            raise self._told(method, refusal) from None
        _caller.set(caller)  # of the call's own task
        with self._quotas.place(caller):
            yield

    def _told(self, method: str, refusal: Abort) -> Abort:
        _calls_refused.labels(method).inc()
        logger.warning("a call was refused: %s", refusal.message, extra={"method": method})
        return refusal

    def seconds(self, context: Context, method: str, streaming: bool) -> float | None:
        """The deadline to enforce here; None where the caller set one."""
        if context.time_remaining() is not None:
            return None
        _no_deadline.labels(method).inc()
        logger.warning("a call came without a deadline", extra={"method": method})
        return self._stream_seconds if streaming else self._unary_seconds


class _Guarded:
    """One method's handler, wrapped. Decodes by itself, so that malformed bytes can be told from failures."""

    def __init__(self, boundary: Boundary, method: str, inner: Any, caller: str) -> None:
        self._boundary = boundary
        self._method = method
        self._inner = inner
        self._caller = caller
        rule = rule_of(method)
        self._most = rule.bytes if rule is not None else LARGEST
        behaviours = (inner.unary_unary, inner.unary_stream, inner.stream_unary, inner.stream_stream)
        self._behaviour: Callable[..., Any] = next(each for each in behaviours if each is not None)

    def handler(self) -> Any:
        shapes: dict[tuple[bool, bool], Any] = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._stream),
        }
        make, wrapped = shapes[self._inner.request_streaming, self._inner.response_streaming]
        return make(wrapped, request_deserializer=None, response_serializer=self._inner.response_serializer)

    async def _unary(self, request: Any, context: Context) -> Any:
        try:
            with self._boundary.place(self._method, self._caller, context):
                seconds = self._boundary.seconds(context, self._method, False)
                async with asyncio.timeout(seconds) as limit:
                    return await self._answer(self._admit(request), context)
        except TimeoutError as error:
            if not limit.expired():
                await self._fail(error, context)
            await self._fail(deadline_exceeded(f"no answer within {seconds} s"), context)
        except Exception as error:
            await self._fail(error, context)

    async def _answer(self, request: Any, context: Context) -> Any:
        if not _is_asynchronous(self._behaviour):
            return await asyncio.to_thread(self._behaviour, request, context)
        return await self._behaviour(request, context)

    async def _stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            with self._boundary.place(self._method, self._caller, context):
                async with aclosing(self._responses(request, context)) as responses:
                    async for response in responses:
                        yield response
        except Exception as error:
            await self._fail(error, context)

    async def _responses(self, request: Any, context: Context) -> AsyncGenerator[Any, None]:
        responses: Any = None
        try:
            seconds = self._boundary.seconds(context, self._method, True)
            end = None if seconds is None else asyncio.get_running_loop().time() + seconds
            responses = self._behaviour(self._admit(request), context)
            if not hasattr(responses, "__anext__"):
                raise TypeError(f"{self._method}: a streaming handler is an asynchronous generator")
            while True:
                try:
                    async with asyncio.timeout_at(end) as limit:
                        response = await anext(responses)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if limit.expired():
                        raise deadline_exceeded(f"the stream did not end within {seconds} s") from None
                    raise
                yield response
        finally:
            if hasattr(responses, "aclose"):
                await responses.aclose()

    def _admit(self, request: Any) -> Any:
        """Decodes: a message, or the iterator over them."""
        return self._decode_all(request) if self._inner.request_streaming else self._decode(request)

    async def _decode_all(self, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._decode(request)

    def _decode(self, request: bytes) -> Any:
        if len(request) > self._most:
            told = f"the request has {len(request)} bytes, and {self._method} takes {self._most}"
            raise resource_exhausted(told)
        deserialize = self._inner.request_deserializer
        if deserialize is None:
            return request
        try:
            message = deserialize(request)
        except (DecodeError, ValueError) as error:
            raise invalid_argument(f"the request is not a valid message of {self._method}") from error
        if isinstance(message, Message):
            validation.check(message)
        return message

    async def _fail(self, error: BaseException, context: Context) -> None:
        """Ends the call; never returns."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, Abort):
            await context.abort_with_status(error.status())
        incident = uuid.uuid4().hex[:12]
        _incidents.labels(self._method).inc()
        logger.error(
            "unexpected exception in a handler", exc_info=error, extra={"method": self._method, "incident": incident}
        )
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error, incident {incident}")


def _refused(refusal: Abort) -> Any:
    """A handler that ends a call before anything of it is read. On the wire all kinds of methods are alike."""

    async def refuse(requests: object, context: Context) -> None:
        await context.abort_with_status(refusal.status())

    return grpc.stream_unary_rpc_method_handler(refuse)


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    while hasattr(function, "func"):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
