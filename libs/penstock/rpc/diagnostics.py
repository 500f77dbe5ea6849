"""`penstock.diagnostics.v1` on every server: what this process waits for."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.diagnostics.v1 import diagnostics_pb2, diagnostics_pb2_grpc
from penstock.telemetry.waits import REGISTRY, WaitRegistry


class Diagnostics(diagnostics_pb2_grpc.DiagnosticsServiceServicer):
    """Serves a registry of waits, the process's own by default."""

    def __init__(self, service: str, registry: WaitRegistry = REGISTRY) -> None:
        self._service = service
        self._registry = registry

    async def ListWaits(
        self, request: diagnostics_pb2.ListWaitsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> diagnostics_pb2.ListWaitsResponse:
        """Every open wait, oldest first."""
        response = diagnostics_pb2.ListWaitsResponse(service=self._service, waits=open_waits(self._registry))
        if self._registry.progress_at is not None:
            response.progress_at.CopyFrom(_timestamp(self._registry.progress_at))
        return response


def open_waits(registry: WaitRegistry = REGISTRY) -> list[diagnostics_pb2.Wait]:
    """The open waits of this process as others are told them, oldest first."""
    waits = list[diagnostics_pb2.Wait]()
    for wait in registry.snapshot():
        told = diagnostics_pb2.Wait(what=wait.what, on=wait.on, since=_timestamp(wait.since), idle=wait.idle)
        if wait.deadline is not None:
            told.deadline.CopyFrom(_timestamp(wait.deadline))
        waits.append(told)
    return waits


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp
