"""Takes whole versions from the bulk socket of weight_sync or a relay, into memory, where it can be reached.

What comes is hashed in a thread while the next bytes are received, and where a connection breaks the next one goes on.
Whatever else goes wrong, gRPC's stream takes over from the same byte; only wrong bytes are an error.

Invariants (test names): a broken connection goes on where it was; what cannot be had by the bulk socket is streamed.
"""

import asyncio
import logging
import queue
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial

import grpc

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.rpc import Certificates, Security
from penstock.telemetry.waits import waiting
from penstock.tensors import Receiver
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
STALL_SECONDS = 30.0
"""A weight_sync that sends no byte for so long is gone."""
AGAIN_SECONDS = 300.0
"""After which a socket that gave nothing is tried again."""
BREAKS = 5
PIECE_BYTES = 4 << 20
FETCH_SECONDS = 600.0
"""The most that one connection or stream takes, however slowly bytes come."""


class Bulk:
    """The socket beside a gRPC port. host: where both are. silent: seconds after which one that sends no byte is left,
    after the first break; None has the patience that weight_sync needs, which may be started again."""

    def __init__(self, host: str, certificates: Certificates | None = None, silent: float | None = None) -> None:
        self._host, self._certificates, self._silent = host, certificates, silent
        self._not_before = 0.0

    @staticmethod
    def beside(address: str, security: Security, silent: float | None = None) -> "Bulk | None":
        """Of the server with this gRPC address; None where that is no host's."""
        host = host_of(address)
        return Bulk(host, security.certificates, silent) if host else None

    async def fill(
        self, channel: grpc.aio.Channel, version: PolicyVersion, whole: memoryview, receiver: Receiver
    ) -> bool:
        """Fills `whole` from where the receiver is; whether it is complete. Raises RpcError where the version is not to
        be had at all, ChecksumError."""
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        for _ in range(BREAKS if self._silent is None else 1):
            before = receiver.received
            if time.monotonic() < self._not_before:
                return False
            try:
                request = pb.OpenBulkRequest(version=version, offset=before)
                offered = await rpc.call(stub.OpenBulk(request, timeout=self._silent or 30.0))
                await self._pour(offered, whole, receiver)
            except rpc.errors.NotFound:
                raise
            except (rpc.RpcError, OSError) as error:
                logger.info(
                    "the bulk socket breaks at byte %d of version %d: %s", receiver.received, version.step, error
                )
            if receiver.complete:
                return True
            if receiver.received == before:
                self._not_before = time.monotonic() + AGAIN_SECONDS
                return False
        return False

    async def _pour(self, offered: pb.OpenBulkResponse, whole: memoryview, receiver: Receiver) -> None:
        """Until the end, a break or the deadline. Then nothing is being received. Raises OSError, ChecksumError."""
        with waiting("weights", on="weight_sync", deadline=FETCH_SECONDS):
            async with asyncio.timeout(FETCH_SECONDS):
                with closing(await asyncio.to_thread(self._connected, offered.port)) as connection:
                    await moving(connection, partial(_pour, connection, offered.ticket, whole, receiver))

    def _connected(self, port: int) -> socket.socket:
        return connected(self._host, port, self._certificates, self._silent)


def host_of(address: str) -> str:
    """The host of a gRPC address; empty where that is no host's."""
    return "" if address.startswith("unix:") else address.rpartition("/")[2].rpartition(":")[0].strip("[]")


def connected(host: str, port: int, certificates: Certificates | None, silent: float | None = None) -> socket.socket:
    """A connection to a bulk socket, with TLS where there are certificates. silent: seconds after which a peer that
    moves no byte is left. Raises OSError."""
    connection = socket.create_connection((host, port), silent or CONNECT_SECONDS)
    try:
        if certificates is not None:
            connection = certificates.context().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise
    connection.settimeout(silent or STALL_SECONDS)
    return connection


async def moving(connection: socket.socket, work: Callable[[], None]) -> None:
    """Has a thread move bytes over a connection; cancelled, it is over when that thread is. Raises as `work` does."""
    under_way = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(under_way)
    except asyncio.CancelledError:
        with suppress(OSError):  # it was gone
            # Which wakes the thread. SSLSocket's own method would have it read on without TLS.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        await asyncio.wait([under_way])
        raise


def _pour(connection: socket.socket, ticket: bytes, whole: memoryview, receiver: Receiver) -> None:
    """Receives until the end, a break or a wrong byte. Raises OSError, ChecksumError."""
    ends: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def check() -> None:
        while (end := ends.get()) is not None:
            receiver.take(whole[receiver.received : end])

    with ThreadPoolExecutor(1, "bulk") as threads:
        checking, at = threads.submit(check), receiver.received
        try:
            connection.sendall(ticket)
            while at < len(whole) and not checking.done():
                read = connection.recv_into(whole[at : at + PIECE_BYTES])
                if not read:
                    break
                at += read
                ends.put(at)
        finally:
            ends.put(None)
        checking.result()
