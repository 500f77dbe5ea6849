"""Pushes this rank's bytes by weight_sync's bulk socket, where it has one that can be reached.

A connection that breaks leaves tensors behind that weight_sync may have or not, so the version is begun again; for a
while gRPC's stream is taken then.

Invariant (test name): what the bulk socket does not take is streamed, and the version is the same.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import partial

import grpc

from penstock import rpc
from penstock.fetching import AGAIN_SECONDS, connected, host_of, moving
from penstock.rpc import Security
from penstock.telemetry.waits import waiting
from penstock.tensors.stretches import END, GOOD, REFUSED, TAKEN, head
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.publishing.parts import PUSH_SECONDS, Place
from services.learner.publishing.writing import Piece

logger = logging.getLogger(__name__)
PIECE_BYTES = 1 << 20
"""Sent at once: what a time-out is for, however slowly all of it goes."""
WORDS = 500
"""Most bytes of what weight_sync says of a push that it does not take."""
NOT_HERE = (
    rpc.errors.FailedPrecondition,
    rpc.errors.Unimplemented,
    rpc.errors.ResourceExhausted,
    rpc.errors.DeadlineExceeded,
)
"""Errors of OpenPush by which there is no socket for this push: gRPC's stream is another matter."""


class Refused(OSError):
    """weight_sync did not take what was pushed, and the socket is as good as before."""


class Bulk:
    """One rank's."""

    def __init__(self, security: Security) -> None:
        self._certificates = security.certificates
        self._not_before = 0.0

    async def pour(self, channel: grpc.aio.Channel, place: Place, pieces: Sequence[Piece]) -> bool:
        """Pushes pieces; False where no socket takes them. Raises rpc.RpcError where one broke."""
        host = host_of(place.address)
        if not host or place.alone or time.monotonic() < self._not_before:
            return False
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        try:
            request = pb.OpenPushRequest(version=place.version, attempt=place.attempt)
            with waiting("weight_sync to open a push", on="weight_sync", deadline=30):
                offered = await rpc.call(stub.OpenPush(request, timeout=30))
                connection = await asyncio.to_thread(self._entered, host, offered.port, offered.ticket)
        except (*NOT_HERE, OSError) as error:
            self._later(error)
            return False
        try:
            with waiting("weight_sync to take a version", on="weight_sync", deadline=PUSH_SECONDS), closing(connection):
                async with asyncio.timeout(PUSH_SECONDS):
                    await moving(connection, partial(_pour, connection, pieces))
        except OSError as error:  # TimeoutError too
            if not isinstance(error, Refused):
                self._later(error)
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, f"the bulk socket broke: {error}") from error
        return True

    def _entered(self, host: str, port: int, ticket: bytes) -> socket.socket:
        """A connection whose ticket was good. Raises OSError."""
        connection = connected(host, port, self._certificates)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(ticket)
            if connection.recv(1) != GOOD:
                raise OSError("weight_sync does not take this ticket, or has no room for another connection")
        except BaseException:
            connection.close()
            raise
        return connection

    def _later(self, error: Exception) -> None:
        logger.info("the bulk socket takes nothing for now: %s", error)
        self._not_before = time.monotonic() + AGAIN_SECONDS


def _pour(connection: socket.socket, pieces: Sequence[Piece]) -> None:
    """Sends all pieces and hears that they were taken. Raises OSError."""
    try:
        for stretch in stretches(pieces):
            connection.sendall(head(stretch[0][0], sum(len(data) for _, data in stretch)))
            for _, data in stretch:
                for start in range(0, len(data), PIECE_BYTES):
                    connection.sendall(data[start : start + PIECE_BYTES])
        connection.sendall(END)
    except (ConnectionError, ssl.SSLError) as error:  # it may have said why
        _check_taken(connection)
        raise OSError(str(error)) from error
    _check_taken(connection)


def _check_taken(connection: socket.socket) -> None:
    """Raises Refused where weight_sync says why what was pushed was not taken, OSError where it says nothing."""
    said = b""
    with suppress(ConnectionError, ssl.SSLError):
        while len(said) < WORDS and (piece := connection.recv(WORDS)):
            said += piece
            if said == TAKEN:
                return
    if said[:1] == REFUSED:
        raise Refused(said[1:].decode(errors="replace"))
    raise OSError("weight_sync ended the connection")


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
