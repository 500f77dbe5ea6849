"""What comes by the bulk socket of a version that is pushed: received in one thread while another checks and writes.

Invariant (test name): whoever is told that all was taken has brought whole tensors, each with its checksum.
"""

import socket
from concurrent.futures import Future, ThreadPoolExecutor

from penstock.telemetry import metrics
from penstock.tensors.stretches import GOOD, HEAD_BYTES, REFUSED, TAKEN, stretch
from services.weight_sync.errors import StoreError
from services.weight_sync.tickets import Intake, Taking

PIECE_BYTES = 1 << 20
WORDS = 400

bytes_received = metrics.counter(metrics.WEIGHT_BYTES, "bytes of tensors pushed")


def take(connection: socket.socket, intake: Intake) -> None:
    """Takes what is pushed, and answers whether all was taken, or why not. Raises OSError, and what the intake does."""
    try:
        taking = intake.begin()
        try:
            connection.sendall(GOOD)
            _take(connection, taking)
        finally:
            taking.close()
    except (ValueError, StoreError) as error:
        connection.sendall(REFUSED + str(error).encode()[:WORDS])
        raise
    connection.sendall(TAKEN)


def _take(connection: socket.socket, taking: Taking) -> None:
    memories = [memoryview(bytearray(PIECE_BYTES)) for _ in range(2)]
    feeding: Future[int] | None = None
    with ThreadPoolExecutor(1, "intake") as thread:
        while head := _next(connection):
            offset, left = head
            if feeding is not None:
                feeding.result()
            taking.seek(offset)
            while left:
                memories.reverse()
                piece = memories[0][:left]
                _fill(connection, piece)
                if feeding is not None:
                    feeding.result()
                feeding = thread.submit(taking.feed, piece)
                left -= len(piece)
                bytes_received.inc(len(piece))
        if feeding is not None:
            feeding.result()
    taking.check_whole()


def _next(connection: socket.socket) -> tuple[int, int] | None:
    said = memoryview(bytearray(HEAD_BYTES))
    _fill(connection, said)
    return stretch(said)


def _fill(connection: socket.socket, memory: memoryview) -> None:
    while memory:
        read = connection.recv_into(memory)
        if not read:
            raise OSError("it ends in the middle of what it pushes")
        memory = memory[read:]
