"""Weights through the real weight_sync process against raw TCP, memcpy and themselves: versions.md's table in one run.

Push is the learner's own code (manifest with a checksum per tensor, stream, commit) and fetch the generation service's
(manifest, bytes into a file in memory, every checksum verified). TCP is what the machine can do at best: one process
sends 1 MiB pieces, another receives them into a buffer, nothing is checked. A version is `--megabytes` of bfloat16; of
the one after it `--changed` of the elements, chosen at random, have moved to their neighbour, which is what a step of
GRPO with a learning rate of 5e-6 was measured to do to a real model of 135 million parameters.

In each round: raw TCP, memcpy, the hash alone; then from a learner on another host (by the bulk socket) and from one on
weight_sync's own (into its files): a whole version pushed, and fetched by an engine on another host; the next one
pushed as a difference and fetched as one, and then taken by an engine on weight_sync's host. With `--versions BEFORE
AFTER` the two are a real model's (what `tests.real.our_step --export` leaves), in turn each the other's next. `--slow`
puts a link of 1 Gbit/s and 5 ms (`slow_link.py`) before weight_sync; then there is the other host alone, and no bulk
socket.
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
from collections import defaultdict
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file

from penstock import rpc
from penstock.bus.embedded import free_ports
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import Bulk, Hands
from penstock.rpc import Security
from penstock.supervisor.child import Child
from penstock.supervisor.plan import launcher
from penstock.system.boot import boot_id
from penstock.tensors import checksum
from penstock.weights.v1 import weights_pb2 as pb
from services.learner.publishing.bulk import Bulk as Pushing
from services.learner.publishing.differences import Differences
from services.learner.publishing.publish import publish
from tests.bench.report import Report, median_ratio
from tests.bench.slow_link import slow_link

MIB = 1 << 20
EVERY = 1 << 30
OTHER, SAME = "other host", "same host"
"""Where the learner is, as weight_sync sees it."""
Tensors = list[tuple[str, torch.Tensor]]


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

    def send(self, data: memoryview) -> None:
        """Sends the data and hears that it has arrived."""
        for start in range(0, len(data), MIB):
            self._connection.sendall(data[start : start + MIB])
        self._connection.recv(1)

    def close(self) -> None:
        self._connection.close()
        self._process.join(10)


class Stopwatch:
    """Seconds by name, one for each round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._began = time.perf_counter()

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self, name: str) -> None:
        """What began last is over; the next begins."""
        self.seconds[name].append(time.perf_counter() - self._began)
        self._began = time.perf_counter()


def stepped(tensors: Tensors, share: float) -> Tensors:
    """The version after a step."""
    made = list[tuple[str, torch.Tensor]]()
    for name, tensor in tensors:
        words = tensor.clone().view(torch.int16).numpy()
        words[np.random.default_rng().random(words.size, np.float32) < share] += 1
        made.append((name, torch.from_numpy(words).view(torch.bfloat16)))
    return made


def first_and_next(args: argparse.Namespace) -> tuple[Tensors, Tensors | None]:
    """The first version, and of a real model the one after it."""
    if args.versions is None:
        elements = args.megabytes * MIB // args.tensors // 2
        return [(f"tensor.{i}", torch.randn(elements).to(torch.bfloat16)) for i in range(args.tensors)], None
    read = [load_file(folder / "model.safetensors") for folder in args.versions]
    before, after = ([(name, tensor.to(torch.bfloat16)) for name, tensor in sorted(each.items())] for each in read)
    return before, after


async def measured(args: argparse.Namespace, address: str, memory: pathlib.Path) -> tuple[Stopwatch, list[float], int]:
    """Times of every round, the shares of the bytes that differences were, and the bytes of a version."""
    tensors, after = first_and_next(args)
    data = memoryview(torch.cat([t.reshape(-1) for _, t in tensors]).view(torch.uint8).numpy())
    source, watch, shares = np.frombuffer(data, np.uint8), Stopwatch(), list[float]()
    copy, hosts = source.copy(), {OTHER: None} if args.slow else {OTHER: None, SAME: boot_id()}
    folders = [memory / name for name in ("elsewhere", "here")]
    for folder in folders:
        folder.mkdir()
    bulk = None if args.slow else Bulk("127.0.0.1")
    elsewhere, here = Hands(folders[0], None, bulk), Hands.here(folders[1])
    whole = pb.PATH_WHOLE if bulk is None else pb.PATH_BULK
    tcp = Tcp(len(data))
    try:
        async with rpc.channel(address) as channel:
            await rpc.ready(channel, "weight_sync", within=60)

            async def taken(hands: Hands, step: int, way: pb.Path) -> int:
                held = await hands.take(channel, PolicyVersion(epoch=1, step=step))
                assert held.way == way, f"it came by {pb.Path.Name(held.way)}"
                return held.crossed

            step = 0
            for _ in range(args.rounds):
                watch.start()
                tcp.send(data)
                watch.stop("tcp")
                np.copyto(copy, source)
                watch.stop("memcpy")
                checksum(data)
                watch.stop("checksum")
                for where, host in hosts.items():
                    kept, changed = Differences(EVERY), stepped(tensors, args.changed) if after is None else after
                    way = None if args.slow else Pushing(Security())
                    at = partial(publish, channel, 1, address=address, bulk=way, host=host)
                    pushing = partial(at, within=300, recorded=1 << 40, differences=kept)
                    watch.start()
                    assert await pushing(step + 1, tensors)
                    watch.stop(f"push, whole, {where}")
                    await taken(elsewhere, step + 1, whole)
                    watch.stop(f"fetch, whole, {where}")
                    assert await pushing(step + 2, changed)
                    watch.stop(f"push, difference, {where}")
                    shares.append(await taken(elsewhere, step + 2, pb.PATH_DIFFERENCE) / len(data))
                    watch.stop(f"fetch, difference, {where}")
                    await taken(here, step + 2, pb.PATH_MAPPED)
                    watch.stop(f"take here, mapped, {where}")
                    step, tensors, after = step + 2, changed, None if after is None else tensors
    finally:
        tcp.close()
        elsewhere.release()
        here.release()
    return watch, shares, len(data)


async def main(args: argparse.Namespace) -> None:
    report = Report("weight_sync", vars(args))
    with (
        tempfile.TemporaryDirectory(dir=args.directory) as store,
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
    ):
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        command = [*launcher("weight_sync"), "--listen", address, "--directory", store, "--keep", "2"]
        service = await Child.start(command, pathlib.Path(store, "weight_sync.log"))
        try:
            with slow_link(port, 1e9, 0.005) if args.slow else nullcontext(port) as reached:
                watch, shares, size = await measured(args, f"127.0.0.1:{reached}", pathlib.Path(memory))
        finally:
            await service.stop(10)
    tell(report, watch.seconds, shares, size)


def tell(report: Report, seconds: dict[str, list[float]], shares: list[float], size: int) -> None:
    """The rows, and versions.md's figures of them."""

    def ratio(base: str, name: str) -> float:
        return median_ratio(seconds[base], seconds[name])

    for name, times in seconds.items():
        report.add(
            what=name,
            seconds=statistics.median(times),
            gb_per_s=size / 1e9 / statistics.median(times),
            of_tcp=ratio("tcp", name),
            best=min(times),
            best_of_tcp=min(seconds["tcp"]) / min(times),
        )
    figures = {"bytes of a difference / full (<= .012)": statistics.median(shares)}
    for where in (OTHER, SAME):
        if f"push, whole, {where}" not in seconds:
            continue
        whole, differing = (
            [
                sum(pair)
                for pair in zip(seconds[f"push, {what}, {where}"], seconds[f"fetch, {what}, {where}"], strict=True)
            ]
            for what in ("whole", "difference")
        )
        figures |= {
            f"{where}: push, full / raw TCP (>= .6 on one host)": ratio("tcp", f"push, whole, {where}"),
            f"{where}: fetch, full, by another host / raw TCP (>= .6)": ratio("tcp", f"fetch, whole, {where}"),
            f"{where}: taken on the store's host / memcpy (>= .8)": ratio("memcpy", f"take here, mapped, {where}"),
            f"{where}: step's end to serving, difference / full (<= .4; slow link <= .05)": median_ratio(
                differing, whole
            ),
        }
    if f"push, whole, {SAME}" in seconds:
        here, there = (
            [sum(pair) for pair in zip(seconds[push], seconds[take], strict=True)]
            for push, take in (
                (f"push, whole, {SAME}", f"take here, mapped, {SAME}"),
                (f"push, whole, {OTHER}", f"fetch, whole, {OTHER}"),
            )
        )
        figures["step's end to serving, whole: all on one host / all on others"] = median_ratio(here, there)
    for name, value in figures.items():
        report.note(f"{name}: {value:.3f}")
    report.note(
        f"{size / 1e9:.2f} GB; of_tcp: share of raw TCP's rate, median over rounds (1 = equal); best: of all rounds"
    )
    report.note("gb_per_s counts the bytes of the version, whatever crossed a socket; loading is no part of this bench")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--tensors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--versions", type=pathlib.Path, nargs=2, help="folders of a model before and after a step")
    parser.add_argument("--changed", type=float, default=0.0112, help="share of the elements that a step changes")
    parser.add_argument("--slow", action="store_true", help="a link of 1 Gbit/s and 5 ms")
    parser.add_argument(
        "--directory", default=os.environ.get("TMPDIR"), help="where the store lies (a disk by default)"
    )
    asyncio.run(main(parser.parse_args()))
