"""The one way to run a gRPC server.

    async with Server("reward", "127.0.0.1:0") as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, MyServicer())
        await server.start()
        await server.wait()          # until SIGTERM, SIGINT or `stop`; then drains

Every server has health (also streamed), diagnostics, traces, validation, deadlines and the error model of this package.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

from penstock.diagnostics.v1 import diagnostics_pb2_grpc
from penstock.rpc.boundary import Boundary
from penstock.rpc.diagnostics import Diagnostics
from penstock.rpc.security import Security
from penstock.rpc.settings import Transport
from penstock.rpc.streams import Streams
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)


class AddressInUse(OSError):
    """Another process listens on the address, or it is not one of this host."""


class Server:
    """A gRPC server; see the module for its use.

    Args:
        name: the service's name in diagnostics: "rollout-1".
        listen: `host:port` (port 0 takes a free one) or `unix:/path`.
        reflection: let tools list the methods; off by default, because it tells strangers.
        default_seconds: deadline of unary calls that come without one; `stream_seconds` that of streams.
        drain_seconds: between saying NOT_SERVING and refusing calls; longer than the load balancer's probe period.
        grace_seconds: how long calls in progress may still take after that.
        max_calls: calls at once; more are refused with RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        name: str,
        listen: str = "127.0.0.1:0",
        *,
        security: Security | None = None,
        transport: Transport | None = None,
        reflection: bool = False,
        default_seconds: float = 60.0,
        stream_seconds: float = 3600.0,
        drain_seconds: float = 0.3,
        grace_seconds: float = 10.0,
        max_calls: int = 4096,
    ) -> None:
        self.name = name
        self._listen = listen
        self._security = security or Security()
        self._reflection = reflection
        self._drain_seconds = drain_seconds
        self._grace_seconds = grace_seconds
        self._port = 0
        self._services: list[str] = []
        self._stop = asyncio.Event()
        self._signals: list[signal.Signals] = []
        not_health = filters.negate(filters.health_check())  # traced, Health/Watch breaks
        traced: Any = aio_server_interceptor(filter_=not_health)  # type: ignore[no-untyped-call]
        self._server = grpc.aio.server(
            interceptors=[Streams(), traced, Boundary(self._security, default_seconds, stream_seconds)],
            options=(transport or Transport()).server_options(),
            maximum_concurrent_rpcs=max_calls,
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.add(diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server, Diagnostics(name))

    def add(
        self,
        adder: Callable[[Any, Any], None],
        servicer: object,
        *,
        raw_requests: Collection[str] = (),
        raw_responses: Collection[str] = (),
    ) -> None:
        """Serves a servicer; `adder` is the generated `add_…Servicer_to_server`.

        Args:
            raw_requests, raw_responses: method names whose messages stay bytes on this side: large tensors are not
                copied through protobuf objects. The peer may still use the generated stub if the bytes are messages.
        """
        for service, handlers in _recorded(adder, servicer).items():
            known = {
                name: _with_raw(handler, name in raw_requests, name in raw_responses)
                for name, handler in handlers.items()
            }
            unknown = (set(raw_requests) | set(raw_responses)) - set(known)
            if unknown:
                raise ValueError(f"{service} has no method {sorted(unknown)}")
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, known),))
            self._services.append(service)

    @property
    def address(self) -> str:
        """Where clients reach it: `host:port` with the port that was bound. Known after `start`."""
        if self._listen.startswith("unix:"):
            return self._listen
        return f"{self._listen.rsplit(':', 1)[0]}:{self._port}"

    async def start(self) -> None:
        """Binds, starts and says SERVING.

        Raises:
            AddressInUse: see there.
        """
        self._security.check_listening(self._listen)
        credentials = self._security.server_credentials()
        if self._reflection:
            names = [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        try:
            if credentials is None:
                self._port = self._server.add_insecure_port(self._listen)
            else:
                self._port = self._server.add_secure_port(self._listen, credentials)
        except RuntimeError as error:
            raise AddressInUse(f"cannot listen on {self._listen}: the address is taken or not of this host") from error
        await self._server.start()
        for service in ("", *self._services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        logger.info("serving", extra={"address": self.address, "services": self._services})

    def announce(self, path: Path) -> None:
        """Writes the address to a file, atomically: whoever sees the file sees the whole address."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(self.address)
        temporary.replace(path)

    def stop(self) -> None:
        """Ends `wait`. Also called by SIGTERM and SIGINT while it runs."""
        self._stop.set()

    async def wait(self) -> None:
        """Serves until `stop`, SIGTERM or SIGINT, then drains."""
        await self.until_stopped()
        await self.drain()

    async def until_stopped(self) -> None:
        """Serves until `stop`, SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.stop)
            self._signals.append(each)
        await self._stop.wait()

    async def drain(self) -> None:
        """Says NOT_SERVING, waits for load balancers to notice, lets calls in progress end, stops."""
        logger.info("draining", extra={"address": self.address})
        await self._health.enter_graceful_shutdown()
        limit = self._drain_seconds + self._grace_seconds
        with waiting("calls in progress", on="clients", deadline=limit):
            await asyncio.sleep(self._drain_seconds)
            await self._server.stop(self._grace_seconds)

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._signals:
            asyncio.get_running_loop().remove_signal_handler(each)
        await self._server.stop(0)


def _recorded(adder: Callable[[Any, Any], None], servicer: object) -> Mapping[str, Mapping[str, Any]]:
    """The method handlers that generated code would register, by service."""
    recorded: dict[str, Mapping[str, Any]] = {}

    class Recorder:
        def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
            recorded[service] = handlers

        def add_generic_rpc_handlers(self, handlers: object) -> None:
            """The same handlers once more."""

    adder(servicer, Recorder())
    return recorded


def _with_raw(handler: Any, raw_request: bool, raw_response: bool) -> Any:
    return handler._replace(
        request_deserializer=None if raw_request else handler.request_deserializer,
        response_serializer=None if raw_response else handler.response_serializer,
    )
