"""A version pushed by the bulk socket: whole tensors with their checksums, or nothing, whatever a peer does."""

import asyncio
import contextlib
import os
import pathlib
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import rpc
from penstock.fetching import connected
from penstock.rpc import Certificates
from penstock.tensors import make_manifest
from penstock.tensors.stretches import END, GOOD, REFUSED, TAKEN, head
from penstock.testing.certificates import issue
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync import bulk as module
from services.weight_sync.bulk import Bulk
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

TENSORS: list[tuple[str, str, Sequence[int], bytes]] = [
    ("a", "float32", [3], b"a" * 12),
    ("b", "float32", [2], b"b" * 8),
    ("c", "bfloat16", [3_000_000], random.Random(5).randbytes(6_000_000)),
]
DATA = b"".join(data for *_, data in TENSORS)


def pushed(port: int, ticket: bytes, sent: bytes, ends: bool = True) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(ticket)
        answer = connection.recv(1)
        if answer != GOOD:
            return answer + connection.recv(400)
        with contextlib.suppress(OSError):  # it was cut
            connection.sendall(sent)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            return connection.recv(400)
        return b""


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
        return await asyncio.to_thread(pushed, self.bulk.port, await self.ticket(), b"".join(sent), ends)

    async def commit(self) -> None:
        request = pb.CommitVersionRequest(version=self.manifest.version, attempt=self.attempt)
        await rpc.call(self.stub.CommitVersion(request))


@asynccontextmanager
async def stand(folder: pathlib.Path, certificates: Certificates | None = None) -> AsyncIterator[Stand]:
    store = VersionStore(folder, keep=2)
    async with rpc.Server("weight_sync") as server:
        with Bulk("127.0.0.1", 0, certificates) as bulk:
            adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
            server.add(adder, WeightSync(store, bulk=bulk), raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
            await server.start()
            async with rpc.channel(server.address) as channel:
                yield Stand(store, bulk, channel)


def stretch(offset: int, size: int) -> bytes:
    return head(offset, size) + DATA[offset : offset + size]


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
    ("sent", "why"),
    [
        ([stretch(0, 12)], None),  # no end
        ([stretch(0, 12)[:-1]], None),
        ([stretch(0, 12)[:9]], None),
        ([], None),
        ([stretch(0, 11), END], "tensor 'a' has come in part"),
        ([stretch(1, 11), END], "no tensor of the version begins at byte 1"),
        ([stretch(0, 12), stretch(0, 12), END], "tensor 'a' comes twice"),
        ([head(0, 12) + b"x" * 12, END], "tensor 'a': the checksum of its 12 bytes differs"),
        ([head(20, 2**63) + DATA[20:], b"more" * 1000, bytes(1 << 20)], "bytes received, the version has 6000020"),
        ([head(2**64 - 1, 12) + b"a" * 12, END], "no tensor of the version begins at byte 18446744073709551615"),
        ([b"\xff" * 1000], "no tensor of the version begins"),
    ],
)
async def test_what_is_broken_off_wrong_or_belongs_nowhere_makes_no_version_and_the_next_push_is_good(
    tmp_path: pathlib.Path, sent: list[bytes], why: str | None
) -> None:
    async with stand(tmp_path) as run:
        await run.begin()
        answered = await run.push(*sent)
        with pytest.raises((rpc.errors.FailedPrecondition, rpc.errors.NotFound)):
            await run.commit()
        if why is None:
            assert answered == b""
        elif answered:  # a peer that still sends may be reset before it reads
            assert answered.startswith(REFUSED) and why in answered.decode(), answered
        await run.begin()
        assert await run.push(stretch(0, len(DATA)), END) == TAKEN
        await run.commit()
        assert run.store.newest is not None and run.store.newest.step == 1


async def test_a_ticket_of_an_attempt_that_was_begun_again_brings_nothing(tmp_path: pathlib.Path) -> None:
    async with stand(tmp_path) as run:
        await run.begin()
        old = await run.ticket()
        await run.begin()

        answered = await asyncio.to_thread(pushed, run.bulk.port, old, stretch(0, 12) + END)
        assert answered.startswith(REFUSED) and b"was begun again" in answered
        assert await run.push(stretch(0, len(DATA)), END) == TAKEN
        await run.commit()


def held(folder: pathlib.Path, name: str, authority: pathlib.Path) -> Certificates:
    certificate, key = issue(folder, name, "ca")
    return Certificates.of_files(authority=authority, certificate=certificate, key=key)


async def test_with_tls_a_learner_pushes_by_it_too(tmp_path: pathlib.Path) -> None:
    authority, _ = issue(tmp_path, "ca")
    server, learner = held(tmp_path, "server", authority), held(tmp_path, "learner", authority)
    async with stand(tmp_path / "store", server) as run:
        await run.begin()

        def pushed(ticket: bytes) -> bytes:
            with connected("127.0.0.1", run.bulk.port, learner) as connection:
                connection.sendall(ticket)
                assert connection.recv(1) == GOOD
                connection.sendall(stretch(0, len(DATA)) + END)
                return connection.recv(400)

        assert await asyncio.to_thread(pushed, await run.ticket()) == TAKEN
        await run.commit()
        stored = run.store.get(run.manifest.version)
        assert stored is not None and bytes(stored.view) == DATA


async def test_a_peer_that_stops_pushing_is_cut_and_another_one_may_bring_its_tensor(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand(tmp_path) as run:
        await run.begin()
        with monkeypatch.context() as quick:
            quick.setattr(module, "STALL_SECONDS", 0.2)
            assert await run.push(stretch(0, 12)[:-3], ends=False) == b""
        assert await run.push(stretch(0, len(DATA)), END) == TAKEN
        await run.commit()


async def test_tickets_that_nobody_shows_hold_no_file(tmp_path: pathlib.Path) -> None:
    async with stand(tmp_path) as run:

        def held() -> int:
            return sum(str(tmp_path) in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))

        for _ in range(8):
            await run.begin()
            await run.ticket()
        assert held() <= 1


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
