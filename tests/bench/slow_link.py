"""A link of so many bits a second and so much delay one way, between a client and a server on this machine.

A process of its own that passes bytes on: what it reads is due when the link has carried what came before, and a delay
after that. Each direction is a link of its own, shared by all connections.
"""

import asyncio
import contextlib
import multiprocessing
import socket
import time
from collections.abc import Iterator

PIECE = 1 << 16
AHEAD = 1 << 22
"""Bytes on their way in one direction of a connection: those of a wide window."""


class Direction:
    """When the link is free again."""

    def __init__(self, bytes_per_second: float, delay: float) -> None:
        self._rate, self._delay, self._free = bytes_per_second, delay, 0.0

    def due(self, size: int) -> float:
        """When bytes that are sent now have arrived."""
        self._free = max(self._free, time.monotonic()) + size / self._rate
        return self._free + self._delay


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Direction) -> None:
    """Passes on what is read, when it is due, until it ends."""
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD // PIECE)

    async def deliver() -> None:
        while True:
            due, data = await way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    with contextlib.suppress(ConnectionError):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deliver())
            data = b"-"
            while data:
                data = await reader.read(PIECE)
                await way.put((link.due(len(data)), data))


def serve(listening: socket.socket, host: str, port: int, bits: float, delay: float) -> None:
    """Carries connections to a port of an address of this machine, for ever."""

    async def run() -> None:
        there, back = (Direction(bits / 8, delay) for _ in range(2))

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(
                carry(reader, far_writer, there), carry(far_reader, writer, back), return_exceptions=True
            )

        async with await asyncio.start_server(connected, sock=listening) as server:
            await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def slow_link(port: int, bits: float, delay: float, host: str = "127.0.0.1", at: int = 0) -> Iterator[int]:
    """A port behind which, at the other end of the link, is `port` of `host`. bits: a second; delay: seconds one way;
    at: that port, where it is not to be any free one."""
    with socket.create_server(("127.0.0.1", at)) as listening:
        process = multiprocessing.get_context("fork").Process(
            target=serve, args=(listening, host, port, bits, delay), daemon=True
        )
        process.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            process.terminate()
            process.join(10)
