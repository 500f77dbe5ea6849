"""A version pushed by the bulk socket: whole tensors with their checksums, or nothing, whatever a peer does."""

import asyncio
import pathlib
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import rpc
from penstock.tensors import make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync import bulk as module
from services.weight_sync.bulk import Bulk
from services.weight_sync.pushing.intake import TAKEN
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

END = bytes(16)
TENSORS: list[tuple[str, str, Sequence[int], bytes]] = [
    ("a", "float32", [3], b"a" * 12),
    ("b", "float32", [2], b"b" * 8),
    ("c", "bfloat16", [3_000_000], random.Random(5).randbytes(6_000_000)),
]
DATA = b"".join(data for *_, data in TENSORS)


class Stand:
    """A weight_sync with its bulk socket."""

    def __init__(self, store: VersionStore, bulk: Bulk, channel: Any) -> None:
        self.store, self.bulk = store, bulk
        self.stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        self.manifest = make_manifest(1, 1, TENSORS)
        self.attempt = 0

    async def begin(self) -> None:
        self.attempt = (await rpc.call(self.stub.BeginVersion(pb.BeginVersionRequest(manifest=self.manifest)))).attempt

    async def ticket(self) -> bytes:
        request = pb.OpenPushRequest(version=self.manifest.version, attempt=self.attempt)
        answer = await rpc.call(self.stub.OpenPush(request))
        assert answer.port == self.bulk.port
        return bytes(answer.ticket)

    async def push(self, *sent: bytes, ends: bool = True) -> bytes:
        """What the socket answers to that; ends: whether nothing more is sent after it."""
        ticket = await self.ticket()

        def pushed() -> bytes:
            with socket.create_connection(("127.0.0.1", self.bulk.port), timeout=20) as connection:
                try:
                    connection.sendall(b"".join((ticket, *sent)))
                    if ends:
                        connection.shutdown(socket.SHUT_WR)
                    return connection.recv(100)
                except OSError:  # it was cut
                    return b""

        return await asyncio.to_thread(pushed)

    async def commit(self) -> None:
        request = pb.CommitVersionRequest(version=self.manifest.version, attempt=self.attempt)
        await rpc.call(self.stub.CommitVersion(request))


@asynccontextmanager
async def stand(folder: pathlib.Path) -> AsyncIterator[Stand]:
    store = VersionStore(folder, keep=2)
    async with rpc.Server("weight_sync") as server:
        with Bulk("127.0.0.1", 0) as bulk:
            adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
            server.add(adder, WeightSync(store, bulk=bulk), raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
            await server.start()
            async with rpc.channel(server.address) as channel:
                yield Stand(store, bulk, channel)


def stretch(offset: int, size: int) -> bytes:
    return offset.to_bytes(8) + size.to_bytes(8) + DATA[offset : offset + size]


@pytest.mark.parametrize(
    "pushes",
    [
        [[(0, len(DATA))]],
        [[(20, 6_000_000)], [(0, 20)]],
        [[(12, 8), (0, 12)], [(20, 6_000_000)]],
        [[(12, 6_000_008)], [(0, 12)]],
    ],
)
async def test_whoever_is_told_that_all_was_taken_has_brought_whole_tensors(
    tmp_path: pathlib.Path, pushes: list[list[tuple[int, int]]]
) -> None:
    async with stand(tmp_path) as run:
        await run.begin()
        sent = [run.push(*(stretch(*each) for each in push), END) for push in pushes]
        assert await asyncio.gather(*sent) == [TAKEN] * len(pushes)
        await run.commit()
        stored = run.store.get(run.manifest.version)
        assert stored is not None and bytes(stored.view) == DATA


@pytest.mark.parametrize(
    "sent",
    [
        [stretch(0, 12)],  # no end
        [stretch(0, 12)[:-1]],
        [stretch(0, 12)[:9]],
        [stretch(0, 11), END],  # no whole tensor: told so at the commit
        [stretch(1, 11), END],
        [stretch(0, 12), stretch(0, 12), END],
        [(0).to_bytes(8) + (12).to_bytes(8) + b"x" * 12, END],
        [(20).to_bytes(8) + (2**63).to_bytes(8) + DATA[20:], b"more" * 1000],
        [(2**64 - 1).to_bytes(8) + (12).to_bytes(8) + b"a" * 12, END],
        [b"\xff" * 1000],
        [],
    ],
)
async def test_what_is_broken_off_wrong_or_belongs_nowhere_makes_no_version_and_the_next_push_is_good(
    tmp_path: pathlib.Path, sent: list[bytes]
) -> None:
    async with stand(tmp_path) as run:
        await run.begin()
        answered = await run.push(*sent)
        with pytest.raises((rpc.errors.FailedPrecondition, rpc.errors.NotFound)):
            await run.commit()
        assert answered == b"" or sent == [stretch(0, 11), END]
        await run.begin()
        assert await run.push(stretch(0, len(DATA)), END) == TAKEN
        await run.commit()
        assert run.store.newest is not None and run.store.newest.step == 1


async def test_a_ticket_of_an_attempt_that_was_begun_again_brings_nothing(tmp_path: pathlib.Path) -> None:
    async with stand(tmp_path) as run:
        await run.begin()
        old = await run.ticket()
        await run.begin()

        def pushed() -> bytes:
            with socket.create_connection(("127.0.0.1", run.bulk.port), timeout=20) as connection:
                try:
                    connection.sendall(old + stretch(0, 12) + END)
                    return connection.recv(100)
                except OSError:  # it was cut
                    return b""

        assert await asyncio.to_thread(pushed) == b""
        assert await run.push(stretch(0, len(DATA)), END) == TAKEN
        await run.commit()


async def test_a_peer_that_stops_pushing_is_cut_and_another_one_may_bring_its_tensor(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    async with stand(tmp_path) as run:
        await run.begin()
        assert await run.push(stretch(0, 12)[:-3], ends=False) == b""
        assert await run.push(stretch(0, len(DATA)), END) == TAKEN
        await run.commit()


async def test_without_a_bulk_socket_the_tensors_are_pushed(tmp_path: pathlib.Path) -> None:
    async with rpc.Server("weight_sync") as server:
        adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
        service = WeightSync(VersionStore(tmp_path, keep=2))
        server.add(adder, service, raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
        await server.start()
        async with rpc.channel(server.address) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            with pytest.raises(rpc.errors.FailedPrecondition) as refused:
                await rpc.call(stub.OpenPush(pb.OpenPushRequest(version=make_manifest(1, 1, TENSORS).version)))
            assert refused.value.reason == "NO_BULK"
