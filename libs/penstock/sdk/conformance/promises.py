"""What a promise is, and how a service's are checked: each by itself, so that one broken promise hides no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.rpc import RpcError, call
from penstock.rpc.errors import Unimplemented

SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One promise. `detail` says what came where it is not kept; what a service may leave out, and does, is not
    `offered`, and passes."""

    name: str
    passed: bool
    detail: str = ""
    offered: bool = True


@dataclass(frozen=True)
class Report:
    """All promises of a service."""

    address: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every promise is kept."""
        return all(check.passed for check in self.checks)


class Broken(Exception):
    """A promise is not kept."""


class NotOffered(Exception):
    """The service does not have what the promise is about, and need not."""


def expect(condition: bool, detail: str) -> None:
    """Raises Broken, saying what came, unless the condition holds."""
    if not condition:
        raise Broken(detail)


async def report_on(address: str, promises: Mapping[str, Callable[[], Awaitable[None]]]) -> Report:
    """Tries every promise, each by itself."""
    checks = []
    for name, promise in promises.items():
        try:
            await promise()
            checks.append(Check(name, True))
        except NotOffered:
            checks.append(Check(name, True, offered=False))
        except (Broken, RpcError) as error:
            checks.append(Check(name, False, str(error)))
    return Report(address, tuple(checks))


def optional(promise: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """The promise of a service that may leave out the method that it is about."""

    async def if_offered() -> None:
        try:
            await promise()
        except Unimplemented as error:
            raise NotOffered from error

    return if_offered


def is_healthy_as(opened: Any, service: str) -> Callable[[], Awaitable[None]]:
    """The promise that the health service knows `service` and says that it serves."""

    async def is_healthy() -> None:
        stub = health_pb2_grpc.HealthStub(opened)
        answer = await call(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS))
        expect(answer.status == health_pb2.HealthCheckResponse.SERVING, f"{service} has status {answer.status}")

    return is_healthy


async def refused(answer: Awaitable[Any], *expected: grpc.StatusCode) -> None:
    """Raises Broken unless the call ends with one of these statuses."""
    try:
        await answer
    except RpcError as error:
        if error.code in expected:
            return
        raise
    raise Broken(f"it was accepted, not refused with {' or '.join(each.name for each in expected)}")
