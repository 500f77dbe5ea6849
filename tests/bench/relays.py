"""Receivers at the far end of a slow link, with a relay beside them and without: until the last one holds a version.

weight_sync and whoever pushes to it are at one end of a link of `--mbits` and 5 ms (`slow_link.py`, before its port and
before its bulk socket), the relay and the receivers at the other. Each is what a run has: processes of weight_sync that
find each other in NATS, and the code with which engines take versions. In each round, for one receiver and for
`--receivers`, a new version is pushed; the time is from its commit until all hold it, checked. The relay is started
behind the rounds without it: it fetches every version.
"""

import argparse
import asyncio
import pathlib
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial

import torch

from penstock import rpc
from penstock.bus import EmbeddedServer, RunNames, connect, ensure_run
from penstock.bus.embedded import free_ports
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import Bulk, Hands, Relays
from penstock.membership import Member, View, Watcher, watching
from penstock.rpc import Security
from penstock.supervisor.child import Child
from penstock.supervisor.plan import launcher
from services.learner.publishing.publish import publish
from tests.bench.report import Report, median_ratio
from tests.bench.slow_link import slow_link

FAR, DELAY, ZONE = "127.0.0.2", 0.005, "near"
ONE, ALL = "one receiver", "all receivers"
DIRECT, RELAYED = "from weight_sync", "by a relay"


class Stand:
    """The two ends. address: weight_sync's as the near end sees it; hands: the receivers'."""

    def __init__(self, address: str, watcher: Watcher, hands: list[Hands]) -> None:
        self.watcher, self.hands = watcher, hands
        self._address, self._step = address, 0

    async def push(self, far: str, megabytes: int) -> PolicyVersion:
        """A new version, READY."""
        self._step += 1
        tensors = [(f"tensor.{i}", torch.randn(megabytes << 14).to(torch.bfloat16)) for i in range(32)]
        async with rpc.channel(far) as channel:
            assert await publish(channel, 1, self._step, tensors, 300, recorded=1 << 40)
        return PolicyVersion(epoch=1, step=self._step)

    async def take(self, version: PolicyVersion, receivers: int, *, relayed: bool) -> float:
        """Seconds until so many receivers hold it."""
        began = time.perf_counter()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for number in range(receivers):
                tasks.create_task(self._take(version, number, relayed, stack))
        return time.perf_counter() - began

    async def _take(self, version: PolicyVersion, number: int, relayed: bool, stack: AsyncExitStack) -> None:
        own = Member(kind="generation", instance=f"generation-{number}", host="near", zone=ZONE if relayed else "")
        seen = await stack.enter_async_context(Relays(self.watcher.view, own, Security()))
        held = await seen.take(self.hands[number], version)
        assert (held is not None) == relayed, "a relay gives it, or there is none"
        if held is None:
            async with rpc.channel(self._address) as channel:
                await self.hands[number].take(channel, version)


def _ready(kind: str, view: View) -> bool:
    return bool(view.ready(kind))


async def measured(args: argparse.Namespace, folder: pathlib.Path, memory: pathlib.Path) -> dict[str, list[float]]:
    """Seconds of every round, by who took the version and from whom."""
    names, (port, bulk) = RunNames("bench"), free_ports(2)
    seconds, bits = defaultdict[str, list[float]](list), args.mbits * 1e6
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(EmbeddedServer(folder / "nats", folder / "nats.log"))
        bus = await stack.enter_async_context(connect(nats.url, name="bench", monitor_url=nats.monitor_url))
        await ensure_run(bus, names)
        watcher = await stack.enter_async_context(watching(bus, names))
        for each in (port, bulk):
            stack.enter_context(slow_link(each, bits, DELAY, FAR, at=each))
        shared = ["--nats", nats.url, "--run", names.run, "--keep", "2"]
        far, near = f"{FAR}:{port}", f"127.0.0.1:{port}"
        store = ["--name", "weight_sync", "--listen", far, "--bulk-port", str(bulk), "--advertise", near]
        relay = ["--name", "relay-0", "--listen", "127.0.0.1:0", "--relay", "--zone", ZONE]

        async def start(kind: str, flags: list[str]) -> None:
            command = [*launcher("weight_sync"), *shared, *flags, "--directory", str(folder / kind)]
            child = await Child.start(command, folder / f"{kind}.log")
            stack.push_async_callback(child.stop, 10)
            async with asyncio.timeout(60):
                await watcher.until(partial(_ready, kind), kind, on="bench")

        await start("weight_sync", store)
        hands = []
        for number in range(args.receivers):
            (memory / str(number)).mkdir()
            hands.append(Hands(memory / str(number), None, Bulk("127.0.0.1")))
            stack.callback(hands[-1].release)
        run = Stand(near, watcher, hands)
        for how in (DIRECT, RELAYED):
            if how == RELAYED:
                await start("relay", relay)
            for _ in range(args.rounds):
                for what, receivers in ((ONE, 1), (ALL, args.receivers)):
                    version = await run.push(far, args.megabytes)
                    seconds[f"{what}, {how}"].append(await run.take(version, receivers, relayed=how == RELAYED))
    return seconds


async def main(args: argparse.Namespace) -> None:
    report = Report("relays", vars(args))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        seconds = await measured(args, pathlib.Path(folder), pathlib.Path(memory))
    for what, times in seconds.items():
        report.add(what=what, seconds=statistics.median(times), best=min(times))
    for how, most in ((RELAYED, "<= 1.5"), (DIRECT, "the link's")):
        ratio = median_ratio(seconds[f"{ALL}, {how}"], seconds[f"{ONE}, {how}"])
        report.note(f"{args.receivers} receivers / 1, {how} ({most}): {ratio:.3f}")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--mbits", type=float, default=250, help="of the link, a second")
    parser.add_argument("--receivers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(main(parser.parse_args()))
