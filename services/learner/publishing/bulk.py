"""Pushes this rank's bytes by weight_sync's bulk socket, where it has one that can be reached.

A connection that breaks leaves tensors behind that weight_sync may have or not, so the version is begun again; for a
while gRPC's stream is taken then.

Invariant (test name): what the bulk socket does not take is streamed, and the version is the same.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

import grpc

from penstock import rpc
from penstock.fetching import AGAIN_SECONDS, connected, moving
from penstock.rpc import Security
from penstock.telemetry.waits import waiting
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.publishing.parts import PUSH_SECONDS, Place
from services.learner.publishing.writing import Piece

logger = logging.getLogger(__name__)
TAKEN = b"\1"


class Bulk:
    """One rank's."""

    def __init__(self, security: Security) -> None:
        self._certificates = security.certificates
        self._not_before = 0.0

    async def pour(self, channel: grpc.aio.Channel, place: Place, pieces: Sequence[Piece]) -> bool:
        """Pushes pieces; False where no socket takes them. Raises rpc.RpcError where one broke."""
        host = place.address.rpartition("/")[2].rpartition(":")[0].strip("[]")
        if not host or place.alone or place.address.startswith("unix:") or time.monotonic() < self._not_before:
            return False
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        try:
            request = pb.OpenPushRequest(version=place.version, attempt=place.attempt)
            offered = await rpc.call(stub.OpenPush(request, timeout=30))
            connection = await asyncio.to_thread(connected, host, offered.port, self._certificates)
        except (rpc.errors.FailedPrecondition, rpc.errors.Unimplemented, OSError) as error:
            self._later(error)
            return False
        try:
            with waiting("weight_sync to take a version", on="weight_sync", deadline=PUSH_SECONDS), closing(connection):
                async with asyncio.timeout(PUSH_SECONDS):
                    await moving(connection, partial(_pour, connection, offered.ticket, pieces))
        except OSError as error:  # TimeoutError too
            self._later(error)
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, f"the bulk socket broke: {error}") from error
        return True

    def _later(self, error: Exception) -> None:
        logger.info("the bulk socket takes nothing for now: %s", error)
        self._not_before = time.monotonic() + AGAIN_SECONDS


def _pour(connection: socket.socket, ticket: bytes, pieces: Sequence[Piece]) -> None:
    """Sends all pieces and hears that they were taken. Raises OSError."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(ticket)
    for stretch in stretches(pieces):
        size = sum(len(data) for _, data in stretch)
        connection.sendall(stretch[0][0].to_bytes(8) + size.to_bytes(8))
        for _, data in stretch:
            connection.sendall(data)
    connection.sendall(bytes(16))
    if connection.recv(1) != TAKEN:
        raise OSError("weight_sync did not take what was pushed")


def stretches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces that stand one behind the other, together. Pure."""
    found = list[Piece]()
    for offset, data in pieces:
        if found and found[-1][0] + len(found[-1][1]) != offset:
            yield found
            found = []
        found.append((offset, data))
    if found:
        yield found
