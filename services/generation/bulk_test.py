"""Whole versions by the bulk socket, from a real weight_sync: all bytes and only those, whatever happens to it."""

import asyncio
import pathlib
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import rpc
from penstock.fetching import Bulk, FetchFailed, Hands, Held
from penstock.fetching import bulk as module
from penstock.rpc import Certificates, Security
from penstock.telemetry.waits import snapshot
from penstock.tensors import make_manifest
from penstock.tensors.manifest import ITEM_BYTES
from penstock.testing.certificates import issue
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.generation.weights_testing import SIZE, Weights, connected, weight_sync, whole
from services.weight_sync import bulk as serving
from services.weight_sync.tickets import Grant

SHAPES = st.lists(
    st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.sampled_from([0, 1, 3, 4095, 1 << 20])), min_size=1, max_size=5
)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "hands"
    made.mkdir()
    return made


async def taken(weights: Weights, folder: pathlib.Path, step: int = 1) -> Held:
    made = await weights.publish(step)
    async with connected(weights) as channel:
        return await Hands(folder, None, Bulk.beside(weights.address, Security())).take(channel, made.version)


def bytes_of(held: Held) -> bytes:
    return held.file.read_bytes()[: held.manifest.total_size]


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_tensors_of_any_size_come_by_the_bulk_socket(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[str, int]], seed: int
) -> None:
    chance, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("bulk")
    data = [chance.bytes(count * ITEM_BYTES[dtype]) for dtype, count in shapes]
    made = make_manifest(1, 1, [(f"t{i}", dtype, [count], data[i]) for i, (dtype, count) in enumerate(shapes)])

    async def run() -> None:
        async with weight_sync(folder / "store", has_bulk=True) as weights, connected(weights) as channel:
            weights.store.begin(made)
            weights.store.staging.feed(made.version, memoryview(b"".join(data)))
            weights.store.commit(made.version)
            held = await Hands(folder, None, Bulk.beside(weights.address, Security())).take(channel, made.version)
            assert bytes_of(held) == b"".join(data) and held.crossed == made.total_size
            assert held.way == (pb.PATH_BULK if made.total_size else pb.PATH_WHOLE)

    asyncio.run(run())


@pytest.mark.parametrize("good", [0, 1, SIZE // 2 + 1, SIZE - 1])
async def test_a_broken_connection_goes_on_where_it_was(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """Each connection breaks behind so many bytes; one that breaks before any leaves the rest to the stream."""
    offsets = list[int]()

    def pieces(grant: Grant) -> Iterator[memoryview]:
        offsets.append(grant.offset)
        if good:
            yield memoryview(whole(1)[grant.offset :][:good])
        raise OSError("the network")

    monkeypatch.setattr(serving, "_pieces", pieces)
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights:
        held = await taken(weights, folder)
        assert (await weights.listed()).full_bytes == SIZE, "one version left the store, however often it broke"
    assert bytes_of(held) == whole(1)
    assert offsets == [n * good for n in range(len(offsets))]
    assert held.way == (pb.PATH_BULK if len(offsets) * good >= SIZE else pb.PATH_WHOLE)


async def test_what_cannot_be_had_by_the_bulk_socket_is_streamed(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    async with weight_sync(tmp_path / "none") as weights:
        assert (await taken(weights, folder)).way == pb.PATH_WHOLE, "it has none"
        assert (await weights.listed()).full_bytes == SIZE
    async with weight_sync(tmp_path / "shut", has_bulk=True) as weights:
        assert weights.bulk is not None
        with socket.create_server(("127.0.0.1", 0)) as silent:
            weights.bulk.port = silent.getsockname()[1]
            assert bytes_of(await taken(weights, folder, 2)) == whole(2), "it says nothing"
        assert (await weights.listed()).full_bytes == SIZE
        weights.bulk.tickets._out = {}
        monkeypatch.setattr(weights.bulk.tickets, "issue", lambda *_: bytes(32))
        assert bytes_of(await taken(weights, folder, 3)) == whole(3), "it knows no ticket"


async def test_a_socket_that_cannot_be_reached_is_left_alone_for_a_while(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, waits = list[int](), list[str]()

    def unreachable(self: Bulk, port: int) -> socket.socket:
        tried.append(port)
        waits.extend(wait.what for wait in snapshot())
        raise ConnectionRefusedError

    monkeypatch.setattr(Bulk, "_connected", unreachable)
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights, connected(weights) as channel:
        hands = Hands(folder, None, Bulk.beside(weights.address, Security()))
        for step in (1, 2):
            held = await hands.take(channel, (await weights.publish(step)).version)
            assert (held.way, bytes_of(held)) == (pb.PATH_WHOLE, whole(step))
    assert len(tried) == 1 and "weights" in waits


async def test_a_socket_that_says_nothing_is_left_alone_for_a_while(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.1)
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights, connected(weights) as channel:
        assert weights.bulk is not None
        hands = Hands(folder, None, Bulk.beside(weights.address, Security()))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            weights.bulk.port = silent.getsockname()[1]
            for step in (1, 2):
                assert bytes_of(await hands.take(channel, (await weights.publish(step)).version)) == whole(step)
            silent.accept()[0].close()
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):
                silent.accept()


async def test_a_connection_that_takes_too_long_is_cut_and_the_next_goes_on_where_it_was(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets, over = list[int](), threading.Event()

    def pieces(grant: Grant) -> Iterator[memoryview]:
        offsets.append(grant.offset)
        at, end = grant.offset, SIZE if offsets[1:] else SIZE // 2
        yield memoryview(whole(1)[at:end])
        for each in range(end, SIZE):  # one byte now and then: never silent for long
            if over.wait(0.01):
                return
            yield memoryview(whole(1)[each : each + 1])

    monkeypatch.setattr(serving, "_pieces", pieces)
    monkeypatch.setattr(module, "FETCH_SECONDS", 1.0)
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights:
        made = await weights.publish(1)
        async with connected(weights) as channel, asyncio.timeout(20):
            hands = Hands(folder, None, Bulk.beside(weights.address, Security()))
            held = await hands.take(channel, made.version)
        over.set()
    assert (held.way, bytes_of(held)) == (pb.PATH_BULK, whole(1))
    assert len(offsets) >= 2 and 0 < offsets[1] < SIZE


async def test_with_certificates_it_is_tls_and_without_a_good_one_the_stream_is_taken(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    ca, _ = issue(tmp_path, "ca")
    issue(tmp_path, "strangers")

    def held(name: str, issuer: str) -> Certificates:
        certificate, key = issue(tmp_path, name, issuer)
        return Certificates.of_files(authority=ca, certificate=certificate, key=key)

    server = held("server", "ca")
    clients = (held("client", "ca"), None, held("stranger", "strangers"), Certificates.of_files(authority=ca))
    async with weight_sync(tmp_path / "store", has_bulk=True, certificates=server) as weights:
        made = await weights.publish(1)
        async with connected(weights) as channel:
            for client in clients:
                hands = Hands(folder, None, Bulk("127.0.0.1", client))
                found = await hands.take(channel, made.version)
                assert found.way == (pb.PATH_BULK if client is clients[0] else pb.PATH_WHOLE)
                assert bytes_of(found) == whole(1)
                hands.release()


@pytest.mark.parametrize("sent", [whole(2), whole(1)[:-1] + b"x"], ids=["another version's", "a wrong byte"])
async def test_wrong_bytes_are_never_taken_for_the_version(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(serving, "_pieces", lambda grant: iter([memoryview(sent)]))
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights:
        with pytest.raises(FetchFailed, match="checksum"):
            await taken(weights, folder)
    assert not list(folder.iterdir())


async def test_too_many_bytes_are_not_read(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_pieces", lambda grant: iter([memoryview(whole(1) + b"more")]))
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights:
        assert bytes_of(await taken(weights, folder)) == whole(1)


async def test_a_weight_sync_that_is_started_again_goes_on_serving_the_receiver(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    """A ticket of its life before is none; the next one is."""
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights:
        made = await weights.publish(1)
        async with connected(weights) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            old = await rpc.call(stub.OpenBulk(pb.OpenBulkRequest(version=made.version)))
    async with weight_sync(tmp_path / "store", has_bulk=True) as weights, connected(weights) as channel:
        assert weights.bulk is not None
        with socket.create_connection(("127.0.0.1", weights.bulk.port), timeout=10) as connection:
            connection.sendall(old.ticket)
            assert await asyncio.to_thread(connection.recv, 1) == b""
        held = await Hands(folder, None, Bulk.beside(weights.address, Security())).take(channel, made.version)
        assert (held.way, bytes_of(held)) == (pb.PATH_BULK, whole(1))


async def test_a_receiver_that_gives_up_ends_its_connection(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with weight_sync(tmp_path / "store", has_bulk=True) as weights:
            assert weights.bulk is not None
            weights.bulk.port = silent.getsockname()[1]
            giving_up = asyncio.create_task(taken(weights, folder))
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                connection.settimeout(10)
                ticket = await asyncio.to_thread(connection.recv, 32)
                assert len(ticket) == 32
                giving_up.cancel()
                assert await asyncio.to_thread(connection.recv, 1) == b""
            with pytest.raises(asyncio.CancelledError):
                await giving_up
    assert not list(folder.iterdir())


async def test_a_receiver_that_gives_up_in_mid_version_leaves_no_thread_with_tls_either(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, _ = issue(tmp_path, "ca")
    server, client = (
        Certificates.of_files(authority=ca, certificate=certificate, key=key)
        for certificate, key in (issue(tmp_path, name, "ca") for name in ("server", "client"))
    )
    sent, over = threading.Event(), threading.Event()

    def pieces(grant: Grant) -> Iterator[memoryview]:
        yield memoryview(whole(1)[: SIZE // 2])
        sent.set()
        assert over.wait(20)

    monkeypatch.setattr(serving, "_pieces", pieces)
    async with weight_sync(tmp_path / "store", has_bulk=True, certificates=server) as weights:
        made = await weights.publish(1)
        async with connected(weights) as channel:
            taking = asyncio.create_task(Hands(folder, None, Bulk("127.0.0.1", client)).take(channel, made.version))
            assert await asyncio.to_thread(sent.wait, 10)
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
            assert not [each.name for each in threading.enumerate() if each.name.startswith("bulk_")]
        over.set()
    assert not [each.name for each in threading.enumerate() if each.name.startswith("bulk")]


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1:7400", "127.0.0.1"), ("[::1]:7400", "::1"), ("dns:///weights:7400", "weights"), ("w:1", "w")],
)
def test_it_is_on_the_host_of_the_grpc_address(address: str, host: str) -> None:
    made = Bulk.beside(address, Security())
    assert made is not None and made._host == host
    assert Bulk.beside("unix:/run/w.sock", Security()) is None
