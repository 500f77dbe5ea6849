"""The one way to open a gRPC channel.

    async with channel("127.0.0.1:7001", idempotent=["penstock.reward.v1.RewardService/Score"]) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        response = await call(stub.Score(request, timeout=5))

Every call gets a deadline (an interceptor sets one; the service config's `timeout` fires early and never reaches the
server), a dead peer is noticed within `keepalive_seconds + ping_seconds`, and only methods that are named idempotent
are repeated, on UNAVAILABLE alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors, filters

from penstock.rpc.errors import DeadlineExceeded
from penstock.rpc.renewing import Renewing
from penstock.rpc.security import Security
from penstock.rpc.settings import Transport
from penstock.telemetry.tracing import inject_string, unrecorded
from penstock.telemetry.waits import waiting

ATTEMPTS = 4


@asynccontextmanager
async def channel(
    address: str,
    *,
    security: Security | None = None,
    transport: Transport | None = None,
    default_seconds: float = 30.0,
    stream_seconds: float = 3600.0,
    idempotent: Collection[str] = (),
) -> AsyncIterator[grpc.aio.Channel]:
    """Opens a channel for the block. Nothing is sent before the first call.

    Args:
        address: `host:port`, `dns:///name:port` (then calls are spread over all addresses) or `unix:/path`.
        default_seconds: deadline of unary calls made without `timeout=`; `stream_seconds` that of streams.
        idempotent: `package.Service/Method` or `package.Service` whose calls are repeated on UNAVAILABLE, four times
            at most within their deadline.

    Raises:
        ValueError: a token would cross a network in plain text.
    """
    security = security or Security()
    security.check_address(address)
    options: list[tuple[str, Any]] = [
        *(transport or Transport()).channel_options(),
        ("grpc.service_config", json.dumps(_service_config(idempotent))),
        ("grpc.enable_retries", 1),
    ]
    interceptors: list[Any] = [
        *aio_client_interceptors(filter_=_has_span),  # type: ignore[no-untyped-call]
        *(kind(default_seconds, stream_seconds, security) for kind in _COMPLETIONS),
    ]

    held = security.certificates

    def secured() -> grpc.aio.Channel:
        assert held is not None
        credentials = held.channel_credentials()
        return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)

    if held is None:
        opened: Any = grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    else:
        opened = Renewing(secured, held)
    try:
        yield opened
    finally:
        await opened.close()


_is_health = filters.health_check()


def _has_span(details: grpc.aio.ClientCallDetails) -> bool:
    return not unrecorded() and not _is_health(details)  # type: ignore[arg-type]


async def ready(opened: grpc.aio.Channel, address: str, *, within: float) -> None:
    """Waits until the channel is connected.

    Raises:
        DeadlineExceeded: it is not after `within` seconds.
    """
    try:
        with waiting("connection", on=address, deadline=within):
            async with asyncio.timeout(within):
                await opened.channel_ready()
    except TimeoutError as error:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        raise DeadlineExceeded(code, f"{address} is not reachable after {within:g} s") from error


async def breathes(address: str, *, security: Security, transport: Transport, within: float) -> bool:
    """Whether a process answers there: it greets a new connection of HTTP/2, whatever its methods are busy with. The
    kernel alone takes the connection of one that is frozen."""
    own = dataclasses.replace(transport, own_connection=True)
    async with channel(address, security=security, transport=own) as opened:
        try:
            await ready(opened, address, within=within)
        except DeadlineExceeded:
            return False
    return True


def _service_config(idempotent: Collection[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if idempotent:
        names = [dict(zip(("service", "method"), name.split("/"), strict=False)) for name in idempotent]
        config["methodConfig"] = [
            {
                "name": names,
                "retryPolicy": {
                    "maxAttempts": ATTEMPTS,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    return config


class _Completion:
    """Adds the deadline and the token to a call that lacks them."""

    def __init__(self, unary_seconds: float, stream_seconds: float, security: Security) -> None:
        self._unary_seconds = unary_seconds
        self._stream_seconds = stream_seconds
        self._security = security

    def complete(self, details: grpc.aio.ClientCallDetails, streaming: bool) -> grpc.aio.ClientCallDetails:
        seconds = self._stream_seconds if streaming else self._unary_seconds
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        shown = self._security.shown_to(method)
        if unrecorded():
            metadata.add("traceparent", inject_string())  # which else is said by the span that it has not
        if shown is not None and metadata.get("authorization") is None:
            metadata.add("authorization", f"Bearer {shown}")
        timeout = details.timeout if details.timeout is not None else seconds
        return grpc.aio.ClientCallDetails(
            details.method, timeout, metadata, details.credentials, details.wait_for_ready
        )


# grpc.aio sorts interceptors by their class and takes only the first that fits: one class for each kind of call.
class _UnaryUnary(_Completion, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(self.complete(details, False), request)


class _UnaryStream(_Completion, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(self.complete(details, True), request)


class _StreamUnary(_Completion, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return await continuation(self.complete(details, True), requests)


class _StreamStream(_Completion, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return await continuation(self.complete(details, True), requests)


_COMPLETIONS = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
