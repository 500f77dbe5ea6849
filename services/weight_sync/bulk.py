"""The bulk socket beside the gRPC port: a version's bytes as they are, to whoever shows a ticket, or from them.

One gRPC stream carries half of what a socket does, before any check (docs/benchmarks.md). Who may fetch is asked where
a ticket is given, by OpenBulk, and who may push by OpenPush; before its ticket a connection has nothing to say. Each
has a thread, and sends from a buffer that is read from the file: a map's first faults, and sendfile's pages of 4 KiB,
cost more than that copy.

Invariants (test names): a wrong, used or expired ticket gets no byte, and is counted; a peer that sends or reads
nothing is cut; with TLS nobody without a certificate gets as far as a ticket, and is counted; the end of the service
ends what is sent, with TLS too, and leaves no thread.
"""

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from penstock.rpc import Certificates
from penstock.telemetry import metrics
from services.weight_sync.errors import StoreError
from services.weight_sync.pushing.intake import take
from services.weight_sync.tickets import TICKET_BYTES, For, Grant, Tickets

logger = logging.getLogger(__name__)

TICKET_WAIT_SECONDS = 10.0
"""Within which a connection has shown its ticket, handshake included."""
STALL_SECONDS = 30.0
"""A peer that takes no byte for so long is gone."""
MOST_CONNECTIONS = 64
END_SECONDS = 5.0
"""Within which the threads of connections that were cut have ended."""
PAUSE_SECONDS = 1.0
"""Before the next try to accept a connection, where that failed: for want of descriptors, say."""
SERVING = "bulk connection"
"""The name of each one's thread."""
PIECE_BYTES = 1 << 20

bytes_sent = metrics.counter(metrics.WEIGHT_BYTES_SENT, "bytes of tensors sent to engines")
_refused = metrics.counter(metrics.TICKETS_REFUSED, "connections to the bulk socket without a good ticket")


class Bulk:
    """The socket, which is open in the block. Raises OSError where it cannot listen.

    sent: bytes that left by it. full: those of the versions whose first byte did.
    """

    def __init__(self, host: str, port: int, certificates: Certificates | None = None) -> None:
        self.tickets, self.sent, self.full = Tickets(), 0, 0
        self._certificates, self._lock = certificates, threading.Lock()
        self._listening = _listening(host, port)
        self.port = int(self._listening.getsockname()[1])
        self._open: dict[threading.Thread, socket.socket] = {}
        self._closing = threading.Event()
        self._accepting = threading.Thread(target=self._accept, name="bulk", daemon=True)

    def __enter__(self) -> "Bulk":
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it, and what is being sent."""
        until = time.monotonic() + END_SECONDS
        self._closing.set()
        self._listening.shutdown(socket.SHUT_RDWR)  # which wakes `accept`
        self._accepting.join()
        self._listening.close()
        with self._lock:
            serving = list(self._open)
            for connection in self._open.values():
                _shut(connection)
        for thread in serving:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                logger.error("a bulk connection that was cut does not end within %g s", END_SECONDS)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError as error:
                if not self._closing.is_set():
                    logger.warning("the bulk socket accepts nobody for now: %s", error)
                    self._closing.wait(PAUSE_SECONDS)
                continue
            with self._lock:
                full = len(self._open) >= MOST_CONNECTIONS
            if full:
                connection.close()  # the peer takes the stream instead
                continue
            serving = threading.Thread(target=self._serve, args=(connection,), name=SERVING, daemon=True)
            try:
                with self._lock:  # until it is known, it does not end
                    serving.start()
                    self._open[serving] = connection
            except RuntimeError as error:  # there may be no more threads
                logger.warning("a bulk connection is not served: %s", error)
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, self._secured(connection) as secured:
                if self._may_serve(secured):
                    grant = self._granted(secured)
                    if isinstance(grant, Grant):
                        self._send(secured, grant)
                    elif grant is not None:
                        secured.settimeout(STALL_SECONDS)
                        take(secured, grant)
        except (OSError, ValueError, StoreError) as error:  # a handshake that fails, a peer that stalled, bad bytes
            logger.info("a bulk connection ends: %s", error)
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _may_serve(self, connection: socket.socket) -> bool:
        """Has this thread's connection cut at the end of the service; False where that has come. With TLS it is another
        object than the one that was accepted, which has no connection any more."""
        with self._lock:
            self._open[threading.current_thread()] = connection
            return not self._closing.is_set()

    def _secured(self, connection: socket.socket) -> socket.socket:
        """With TLS it has the connection from now on, whose handshake is still to come."""
        if self._certificates is None:
            return connection
        context = self._certificates.server_context()
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _granted(self, connection: socket.socket) -> For | None:
        """What the ticket is for that a peer shows in its time, handshake included; None, and counted, where that is no
        good one. Raises OSError, counted too."""
        until, grant = time.monotonic() + TICKET_WAIT_SECONDS, None
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.settimeout(TICKET_WAIT_SECONDS)  # of all of the handshake
                connection.do_handshake()
            grant = self.tickets.redeem(_ticket(connection, until), time.monotonic())
        finally:
            if grant is None:
                _refused.inc()
        return grant

    def _send(self, connection: socket.socket, grant: Grant) -> None:
        connection.settimeout(STALL_SECONDS)
        first = grant.offset == 0
        for piece in _pieces(grant):
            connection.sendall(piece)
            bytes_sent.inc(len(piece))
            with self._lock:
                self.sent += len(piece)
                self.full += grant.end if first else 0
            first = False


def _listening(host: str, port: int) -> socket.socket:
    """Listens where gRPC would: `::` is every address of both kinds. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found)  # IPv4, of a name that has both
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=MOST_CONNECTIONS, dualstack_ipv6=both)


def _ticket(connection: socket.socket, until: float) -> bytes:
    """What a peer shows within its time. Raises OSError."""
    shown = b""
    while len(shown) < TICKET_BYTES:
        connection.settimeout(max(0.01, until - time.monotonic()))
        piece = connection.recv(TICKET_BYTES - len(shown))
        if not piece or time.monotonic() >= until:
            break
        shown += piece
    return shown


def _pieces(grant: Grant) -> Iterator[memoryview]:
    memory, at = memoryview(bytearray(PIECE_BYTES)), grant.offset
    with grant.path.open("rb") as file:
        while at < grant.end:
            read = os.preadv(file.fileno(), [memory[: grant.end - at]], at)
            if not read:
                raise OSError(f"{grant.path.name} is cut")
            yield memory[:read]
            at += read


def _shut(connection: socket.socket) -> None:
    """From another thread. Not by SSLSocket's own method: what that thread sends next would leave in plain text."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError as error:  # it has gone by itself
        logger.debug("a bulk connection was gone: %s", error)
