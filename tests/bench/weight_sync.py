"""Weights through the real weight_sync process against raw TCP on loopback: GB/s to push and to fetch.

Push is the learner's own code (manifest with a checksum per tensor, stream, commit) and fetch the generation service's
(manifest, stream into a file in memory, every checksum verified). TCP is what the machine can do at best: one process
sends 1 MiB pieces, another receives them into a buffer, nothing is checked. The row `checksum` is the hash alone, on
one core; push pays it twice (sender and store) and fetch once, beside the transfer where it can.
"""

import argparse
import asyncio
import multiprocessing
import os
import pathlib
import socket
import statistics
import tempfile
import time

import torch

from penstock import rpc
from penstock.bus.embedded import free_ports
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.supervisor.child import Child
from penstock.supervisor.plan import launcher
from penstock.tensors import checksum
from services.generation.fetching import fetch
from services.learner.leader.publishing import publish
from tests.bench.report import Report, median_ratio

MIB = 1 << 20


def receive(port: int, size: int) -> None:
    """Connects, receives `size` bytes again and again, answers one byte each time; ends when the sender does."""
    memory = memoryview(bytearray(size))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while True:
            got = 0
            while got < size:
                read = connection.recv_into(memory[got : got + MIB])
                if not read:
                    return
                got += read
            connection.sendall(b"k")


class Tcp:
    """A receiver process at the other end of a loopback connection."""

    def __init__(self, size: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
            self._process = multiprocessing.get_context("spawn").Process(target=receive, args=(port, size), daemon=True)
            self._process.start()
            self._connection, _ = server.accept()

    def send(self, data: memoryview) -> float:
        """Seconds to send the data and hear that it has arrived."""
        began = time.perf_counter()
        for start in range(0, len(data), MIB):
            self._connection.sendall(data[start : start + MIB])
        self._connection.recv(1)
        return time.perf_counter() - began

    def close(self) -> None:
        self._connection.close()
        self._process.join(10)


async def main(args: argparse.Namespace) -> None:
    report = Report("weight_sync", vars(args))
    elements = args.megabytes * MIB // args.tensors // 4
    tensors = [(f"tensor.{i}", torch.randn(elements)) for i in range(args.tensors)]
    data = memoryview(torch.cat([t for _, t in tensors]).view(torch.uint8).numpy())
    gigabytes = len(data) / 1e9
    seconds: dict[str, list[float]] = {"tcp": [], "checksum": [], "push": [], "fetch": []}
    tcp = Tcp(len(data))
    with (
        tempfile.TemporaryDirectory(dir=args.directory) as store,
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
    ):
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        command = [*launcher("weight_sync"), "--listen", address, "--directory", store, "--keep", "1"]
        service = await Child.start(command, pathlib.Path(store, "weight_sync.log"))
        try:
            async with rpc.channel(address) as channel:
                await rpc.ready(channel, "weight_sync", within=60)
                for step in range(1, args.rounds + 1):
                    seconds["tcp"].append(tcp.send(data))
                    began = time.perf_counter()
                    checksum(data)
                    summed = time.perf_counter()
                    assert await publish(channel, 1, step, tensors, within=120, recorded=step)
                    pushed = time.perf_counter()
                    await fetch(channel, PolicyVersion(epoch=1, step=step), pathlib.Path(memory, "version.bin"))
                    fetched = time.perf_counter()
                    seconds["checksum"].append(summed - began)
                    seconds["push"].append(pushed - summed)
                    seconds["fetch"].append(fetched - pushed)
        finally:
            await service.stop(10)
            tcp.close()
    for name, times in seconds.items():
        report.add(
            what=name,
            gb_per_s_median=gigabytes / statistics.median(times),
            gb_per_s_best=gigabytes / min(times),
            of_tcp=median_ratio(seconds["tcp"], times),
        )
    report.note(
        f"{gigabytes:.2f} GB in {args.tensors} tensors; of_tcp: share of raw TCP's rate, median over rounds (1 = equal)"
    )
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--tensors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--directory", default=os.environ.get("TMPDIR"), help="where the store lies (a disk by default)"
    )
    asyncio.run(main(parser.parse_args()))
