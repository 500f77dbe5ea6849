"""A rank pushes by the bulk socket where there is one; what that does not take is streamed."""

import asyncio
import random
import socket
import threading
from typing import Any

import grpc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock import rpc
from penstock.rpc import Security
from penstock.tensors.stretches import GOOD, HEAD_BYTES, REFUSED, TAKEN, stretch
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.publishing import bulk as module
from services.learner.publishing.bulk import Bulk, _pour, stretches
from services.learner.publishing.publish import publish
from services.learner.publishing.store_testing import Unasked

TICKET = b"t" * 32
TENSORS = [("b", torch.randn(700_000)), ("a", torch.arange(5.0)), ("none", torch.zeros(0))]
WHOLE = b"".join(tensor.numpy().tobytes() for _, tensor in sorted(TENSORS, key=lambda named: named[0]))


class Socket:
    """The other end, for one connection after the other. takes: of each, what becomes of it: whether it takes all,
    breaks off, says why it does not, or knows no ticket."""

    def __init__(self, *takes: bool | str | None) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.takes, self.data, self.connections = list(takes), bytearray(len(WHOLE)), 0
        self.port = int(self.listening.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for takes in self.takes:
            connection, _ = self.listening.accept()
            self.connections += 1
            with connection, connection.makefile("rb") as coming:
                assert coming.read(32) == TICKET
                if takes is None:
                    continue
                connection.sendall(GOOD)
                if not takes:
                    coming.read(1000)
                    continue
                while head := stretch(coming.read(HEAD_BYTES)):
                    offset, size = head
                    self.data[offset : offset + size] = coming.read(size)
                connection.sendall(REFUSED + takes.encode() if isinstance(takes, str) else TAKEN)


class Store(Unasked):
    """Takes what comes. port: of its bulk socket; 0: it has none; None: it knows of none."""

    def __init__(self, port: int | None) -> None:
        self.port, self.data, self.asked, self.begun = port, b"", 0, 0

    async def BeginVersion(self, request: pb.BeginVersionRequest, context: Any) -> pb.BeginVersionResponse:
        self.begun += 1
        return pb.BeginVersionResponse(attempt=self.begun, takes_parts=True)

    async def OpenPush(self, request: pb.OpenPushRequest, context: Any) -> pb.OpenPushResponse:
        self.asked += 1
        if self.port is None:
            raise rpc.Abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
        if not self.port:
            raise rpc.failed_precondition("there is no bulk socket", reason="NO_BULK")
        assert request.attempt == self.begun
        return pb.OpenPushResponse(ticket=TICKET, port=self.port)

    async def PushTensors(self, requests: Any, context: Any) -> pb.PushTensorsResponse:
        self.data = b"".join([request.data async for request in requests])
        return pb.PushTensorsResponse()

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        return pb.CommitVersionResponse()


def published(store: Store, times: int = 1) -> None:
    async def run() -> None:
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            bulk = Bulk(Security())
            async with rpc.channel(server.address) as channel:
                for step in range(times):
                    given: dict[str, Any] = {"recorded": 9, "address": server.address, "bulk": bulk}
                    assert await publish(channel, 1, step, TENSORS, 20, **given)

    asyncio.run(run())


def test_all_tensors_go_by_the_socket() -> None:
    there = Socket(True, True)
    store = Store(there.port)
    published(store, times=2)
    assert bytes(there.data) == WHOLE and store.data == b"" and there.connections == 2


def test_where_it_says_why_not_that_is_logged_and_the_version_is_streamed(caplog: pytest.LogCaptureFixture) -> None:
    there = Socket("tensor 'b': the checksum of its 2800000 bytes differs", None)
    store = Store(there.port)
    published(store)
    assert store.begun == 2 and store.data == WHOLE
    assert "tensor 'b': the checksum of its 2800000 bytes differs" in caplog.text


def test_a_connection_that_is_refused_before_a_byte_was_taken_costs_no_attempt() -> None:
    there = Socket(None)
    store = Store(there.port)
    published(store, times=2)
    assert (store.begun, store.data, there.connections) == (2, WHOLE, 1)


def test_a_slow_reader_that_goes_on_is_not_taken_for_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.3)
    whole = memoryview(bytes(8 << 20))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    monkeypatch.setattr(module, "PIECE_BYTES", 1 << 16)

    def read() -> None:
        left = len(whole) + 2 * HEAD_BYTES
        while left:
            left -= len(theirs.recv(min(left, 1 << 19)))
            threading.Event().wait(0.01)  # all of it takes longer than one piece may
        theirs.sendall(TAKEN)

    reading = threading.Thread(target=read)
    reading.start()
    _pour(ours, [(0, whole)])
    reading.join()


def test_where_it_breaks_the_version_is_begun_again_and_streamed() -> None:
    there = Socket(False)
    store = Store(there.port)
    published(store, times=2)
    assert store.begun == 3 and store.data == WHOLE
    assert there.connections == store.asked == 1, "it is left alone for a while"


@pytest.mark.parametrize("port", [0, None, 1], ids=["none", "an older weight_sync", "nobody listens"])
def test_what_the_bulk_socket_does_not_take_is_streamed(port: int | None) -> None:
    store = Store(port)
    published(store, times=2)
    assert (store.begun, store.data, store.asked) == (2, WHOLE, 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=8))
def test_a_stretch_is_what_stands_one_behind_the_other(parts: list[tuple[bool, int]]) -> None:
    at, pieces = 0, list[tuple[int, memoryview]]()
    for gap, size in parts:
        at += 3 * gap
        pieces.append((at, memoryview(random.randbytes(size))))
        at += size
    found = list(stretches(pieces))
    assert [piece for together in found for piece in together] == pieces
    assert len(found) == sum(gap for gap, _ in parts[1:]) + bool(parts)
    for together in found:
        ends = [offset + len(data) for offset, data in together]
        assert [offset for offset, _ in together[1:]] == ends[:-1]
