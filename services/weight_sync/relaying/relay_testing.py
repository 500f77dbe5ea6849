"""A run with a weight_sync and relays as processes of their own, and versions of any tensors."""

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from penstock import rpc
from penstock.bus import Bus, EmbeddedServer, RunNames
from penstock.differences import encoded, layout_of, tensors_in
from penstock.fetching import Bulk, Hands, Held, Relays
from penstock.membership import Member, Watcher, watching
from penstock.supervisor.child import Child
from penstock.tensors import CHUNK_BYTES, make_manifest
from penstock.tensors.manifest import ITEM_BYTES
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.relaying.secured_testing import Nothing

Shapes = Sequence[tuple[str, int]]
"""Type and elements of each tensor."""
SMALL: Shapes = [("float32", 1), ("bfloat16", 0), ("bfloat16", 3001)]


@dataclass(frozen=True)
class Version:
    """A manifest and its bytes."""

    manifest: pb.Manifest
    data: bytes

    def after(self, chance: np.random.Generator) -> "Version":
        """The next one, of which a few bytes are others."""
        data = np.frombuffer(self.data, np.uint8).copy()
        if data.size:
            data[chance.integers(0, data.size, 5)] ^= 1
        return made(self.manifest.version.step + 1, _shapes(self.manifest), data.tobytes(), self.manifest)


def _shapes(manifest: pb.Manifest) -> Shapes:
    return [(t.dtype, t.shape[0]) for t in manifest.tensors]


def made(step: int, shapes: Shapes, data: bytes, parent: pb.Manifest | None = None) -> Version:
    """A version of these bytes."""
    tensors, at = [], 0
    for number, (dtype, count) in enumerate(shapes):
        size = count * ITEM_BYTES[dtype]
        tensors.append((f"t{number}", dtype, [count], data[at : at + size]))
        at += size
    return Version(make_manifest(1, step, tensors, parent.version if parent is not None else None), data)


def drawn(step: int, shapes: Shapes, chance: np.random.Generator) -> Version:
    """A version of any bytes."""
    return made(step, shapes, chance.bytes(sum(count * ITEM_BYTES[dtype] for dtype, count in shapes)))


async def publish(channel: grpc.aio.Channel, version: Version, parent: Version | None = None) -> int:
    """Makes a version READY, as a learner does: whole, or by what has changed since `parent`, if that is shorter; how
    many bytes travel."""
    stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=version.manifest)))
    named, data = version.manifest.version, version.data
    changed = None
    if parent is not None:
        before, after = (tensors_in(v.manifest, memoryview(v.data)) for v in (parent, version))
        changed = encoded(layout_of(version.manifest), before, after, most=1.0)
    if changed is None or len(changed) >= len(data):
        first = pb.PushTensorsRequest(version=named)
        rest = [pb.PushTensorsRequest(data=data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)]
        await rpc.call(stub.PushTensors(iter([first, *rest])))
    else:
        data = bytes(changed)
        await rpc.call(stub.PushDifference(iter([pb.PushDifferenceRequest(version=named, data=data)])))
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=named)))
    return len(data)


@dataclass
class Stand:
    """The run. channel: to its weight_sync, as its learner; watcher: who is there; shown: what its processes show;
    children: these, by their names."""

    nats: EmbeddedServer
    names: RunNames
    folder: pathlib.Path
    watcher: Watcher
    shown: Nothing
    address: str = ""
    channel: grpc.aio.Channel = field(init=False)
    children: dict[str, Child] = field(default_factory=dict)

    def directory(self, name: str) -> pathlib.Path:
        """Where a process has its versions."""
        return self.folder / f"{name} versions"

    async def start(self, kind: str, name: str, *flags: str) -> Member:
        """Starts a process; waits until it is READY."""
        before = {m.incarnation for m in self.watcher.view.of(kind)}
        await self.spawn(kind, name, *flags)

        def there(m: Member) -> bool:
            return m.instance == name and m.incarnation not in before

        async with asyncio.timeout(60):
            await self.watcher.until(lambda view: any(map(there, view.ready(kind))), name, on="test")
        (found,) = filter(there, self.watcher.view.ready(kind))
        return found

    async def spawn(self, shows: str, name: str, *flags: str) -> Child:
        """Starts a process with the credentials of a kind."""
        command = [sys.executable, "-m", "services.weight_sync", "--name", name, "--nats", self.nats.url]
        command += ["--run", self.names.run, "--directory", str(self.directory(name)), "--drain-seconds", "0.1"]
        child = await Child.start([*command, *self.shown.flags(shows), *flags], self.folder / f"{name}.log")
        self.children[name] = child
        return child

    async def relay(self, name: str, zone: str, *flags: str) -> Member:
        """Starts a relay."""
        return await self.start("relay", name, "--relay", "--zone", zone, *flags)

    async def kill(self, name: str) -> None:
        """By SIGKILL."""
        os.kill(self.children[name].pid, signal.SIGKILL)
        await self.children[name].ended()

    async def listed(self) -> pb.ListVersionsResponse:
        """What weight_sync says of its versions."""
        stub = weights_pb2_grpc.WeightSyncServiceStub(self.channel)
        answer: pb.ListVersionsResponse = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        return answer

    def hands(self, name: str, host: str | None = None) -> Hands:
        """Of a receiver."""
        folder = self.folder / f"{name} hands"
        folder.mkdir(exist_ok=True)
        return Hands(folder, host, Bulk.beside(self.address, self.shown.security("generation")))

    def relays(self, zone: str = "a", name: str = "g0", clock: Callable[[], float] = time.monotonic) -> Relays:
        """As a receiver in a zone, on a host where nobody else is, sees them."""
        own = Member(kind="generation", instance=name, host="elsewhere", zone=zone)
        return Relays(self.watcher.view, own, self.shown.security("generation"), clock)


@contextlib.asynccontextmanager
async def stand(
    nats: EmbeddedServer, bus: Bus, names: RunNames, folder: pathlib.Path, *flags: str, shown: Nothing | None = None
) -> AsyncIterator[Stand]:
    """A run whose weight_sync has these flags."""
    async with watching(bus, names) as watcher:
        running = Stand(nats, names, folder, watcher, shown or Nothing())
        try:
            running.address = (await running.start("weight_sync", "weight_sync", *flags)).address
            opened = rpc.channel(running.address, security=running.shown.security("learner"), stream_seconds=60)
            async with opened as running.channel:
                yield running
        finally:
            for child in running.children.values():
                await child.stop(5)


def bytes_of(held: Held) -> bytes:
    return held.file.read_bytes()[: held.manifest.total_size]


async def taken(run: Stand, seen: Relays, hands: Hands, version: Version) -> Held:
    """As an engine takes it; its bytes are those that were published."""
    named = version.manifest.version
    held = await seen.take(hands, named) or await hands.take(run.channel, named)
    assert bytes_of(held) == version.data and held.manifest == version.manifest
    return held
