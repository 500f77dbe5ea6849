"""What a promise is, and how a service's are checked: each by itself, so that one broken promise hides no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.rpc import RpcError, call

SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One promise. `detail` says what came where it is not kept."""

    name: str
    passed: bool
    detail: str = ""


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


def expect(condition: bool, detail: str) -> None:
    if not condition:
        raise Broken(detail)


async def report_on(address: str, promises: Mapping[str, Callable[[], Awaitable[None]]]) -> Report:
    checks = []
    for name, promise in promises.items():
        try:
            await promise()
            checks.append(Check(name, True))
        except (Broken, RpcError) as error:
            checks.append(Check(name, False, str(error)))
    return Report(address, tuple(checks))


def is_healthy_as(opened: Any, service: str) -> Callable[[], Awaitable[None]]:
    async def is_healthy() -> None:
        stub = health_pb2_grpc.HealthStub(opened)
        answer = await call(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS))
        expect(answer.status == health_pb2.HealthCheckResponse.SERVING, f"{service} has status {answer.status}")

    return is_healthy


async def refused(answer: Awaitable[Any], expected: type[RpcError]) -> None:
    try:
        await answer
    except expected:
        return
    raise Broken(f"it was accepted, not refused with {expected.__name__}")
