"""What comes by the bulk socket of a version that is pushed: received in one thread while another checks and writes.

Invariant (test name): whoever is told that all was taken has brought whole tensors, each with its checksum.
"""

import socket
from concurrent.futures import Future, ThreadPoolExecutor

from penstock.telemetry import metrics
from services.weight_sync.tickets import Intake

HEAD_BYTES = 16
PIECE_BYTES = 1 << 20
TAKEN = b"\1"

bytes_received = metrics.counter(metrics.WEIGHT_BYTES, "bytes of tensors pushed")


def take(connection: socket.socket, intake: Intake) -> None:
    """Takes stretches until the end, and answers that all were taken. Raises OSError, and what the intake does."""
    memories = [memoryview(bytearray(PIECE_BYTES)) for _ in range(2)]
    feeding: Future[int] | None = None
    with ThreadPoolExecutor(1, "intake") as thread:
        try:
            while head := _stretch(connection):
                offset, left = head
                if feeding is not None:
                    feeding.result()
                intake.seek(offset)
                while left:
                    memories.reverse()
                    piece = memories[0][:left]
                    _fill(connection, piece)
                    if feeding is not None:
                        feeding.result()
                    feeding = thread.submit(intake.feed, piece)
                    left -= len(piece)
                    bytes_received.inc(len(piece))
            if feeding is not None:
                feeding.result()
            connection.sendall(TAKEN)
        finally:
            thread.shutdown()
            intake.close()


def _stretch(connection: socket.socket) -> tuple[int, int] | None:
    """Where the next bytes begin, and how many they are; None at the end."""
    head = memoryview(bytearray(HEAD_BYTES))
    _fill(connection, head)
    offset, size = int.from_bytes(head[:8]), int.from_bytes(head[8:])
    return (offset, size) if size else None


def _fill(connection: socket.socket, memory: memoryview) -> None:
    while memory:
        read = connection.recv_into(memory)
        if not read:
            raise OSError("it ends in the middle of what it pushes")
        memory = memory[read:]
