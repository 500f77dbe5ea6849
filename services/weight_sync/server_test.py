"""Versions are pushed and fetched over real sockets: what the contract promises to those who do."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.differences import encoded, layout_of, tensors_in
from penstock.system.boot import boot_id
from penstock.tensors import CHUNK_BYTES, frame, unframe
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.server_testing import (
    CODES,
    SERVICE,
    SIZE,
    manifest,
    messages,
    push,
    raw,
    refusal,
    stream_refusal,
    whole,
)
from services.weight_sync.store import VersionStore


async def test_a_plain_generated_stub_pushes_and_fetches_without_raw_framing(stub: Any) -> None:
    version = await push(stub, 1)
    fetched = [m.data async for m in stub.FetchTensors(pb.FetchTensorsRequest(version=version))]
    assert b"".join(fetched) == whole(1)
    rest = [m.data async for m in stub.FetchTensors(pb.FetchTensorsRequest(version=version, offset=SIZE - 10))]
    assert rest == [whole(1)[-10:]]
    assert [m async for m in stub.FetchTensors(pb.FetchTensorsRequest(version=version, offset=SIZE))] == []
    answer = await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version)))
    assert answer.manifest.tensors == manifest(1).tensors


async def test_raw_framing_is_the_same_wire(channel: grpc.aio.Channel, stub: Any) -> None:
    m = manifest(1)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))

    async def framed() -> AsyncIterator[bytes]:
        yield pb.PushTensorsRequest(version=m.version, data=whole(1)[:5]).SerializeToString()
        for start in range(5, SIZE, CHUNK_BYTES):
            yield frame(whole(1)[start : start + CHUNK_BYTES], field=pb.PushTensorsRequest.DATA_FIELD_NUMBER)

    answer = await rpc.call(
        raw(channel).stream_unary(SERVICE + "PushTensors", response_deserializer=pb.PushTensorsResponse.FromString)(
            framed()
        )
    )
    assert answer.received == SIZE
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
    fetch = raw(channel).unary_stream(
        SERVICE + "FetchTensors", request_serializer=pb.FetchTensorsRequest.SerializeToString
    )
    received = [bytes(unframe(x) or b"") async for x in fetch(pb.FetchTensorsRequest(version=m.version))]
    assert b"".join(received) == whole(1)


async def test_a_difference_is_pushed_and_fetched_and_its_refusals_are_typed(stub: Any) -> None:
    await push(stub, 1)
    first, second = manifest(1), manifest(2)
    second.parent.CopyFrom(first.version)
    before, after = (tensors_in(m, memoryview(whole(m.version.step))) for m in (first, second))
    made = encoded(layout_of(first), before, after, 0.9)
    assert made is not None

    async def pushing(data: bytes) -> Any:
        await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=second)))
        sent = [pb.PushDifferenceRequest(version=second.version), pb.PushDifferenceRequest(data=data)]
        return await rpc.call(stub.PushDifference(iter(sent)))

    wrong = bytearray(made)
    wrong[-1] ^= 1
    for data, codes in ((b"PSD1", {CODES.INVALID_ARGUMENT}), (bytes(wrong), {CODES.INVALID_ARGUMENT, CODES.DATA_LOSS})):
        with pytest.raises(rpc.RpcError) as error:
            await pushing(data)
        assert error.value.code in codes
    assert (await pushing(made)).received == len(made)
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=second.version)))
    fetch = pb.FetchDifferenceRequest(version=second.version, held=first.version)
    fetched = [m async for m in stub.FetchDifference(fetch)]
    assert list(fetched[0].sizes) == [len(made)] and b"".join(m.data for m in fetched[1:]) == made
    again = pb.FetchDifferenceRequest(version=second.version, held=second.version)
    assert [list(m.sizes) for m in [m async for m in stub.FetchDifference(again)]] == [[]]
    back = pb.FetchDifferenceRequest(version=first.version, held=second.version)
    error_of = await stream_refusal(stub.FetchDifference(back))
    assert (error_of.code, error_of.reason) == (CODES.NOT_FOUND, "NO_DIFFERENCE")
    third = manifest(3)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=third)))
    error_of = await refusal(stub.PushDifference(iter([pb.PushDifferenceRequest(version=third.version, data=made)])))
    assert (error_of.code, error_of.reason) == (CODES.NOT_FOUND, "NO_PARENT")


async def test_the_file_of_a_version_is_told_with_its_host(stub: Any) -> None:
    version = await push(stub, 1)
    answer = await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version)))
    assert pathlib.Path(answer.path).read_bytes() == whole(1) and answer.boot_id == (boot_id() or "")


async def test_a_learner_on_the_stores_host_writes_its_file_and_is_told_what_is_wrong_with_it(stub: Any) -> None:
    async def writing(data: bytes, written: pb.Written = pb.WRITTEN_TENSORS) -> Any:
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest(1))))
        assert begun.boot_id == (boot_id() or "") and not begun.difference_path
        with pathlib.Path(begun.path).open("r+b") as file:
            file.write(data)
        return stub.CommitVersion(pb.CommitVersionRequest(version=manifest(1).version, written=written))

    error = await refusal(await writing(whole(1) + b"x"))
    assert (error.code, error.reason) == (CODES.FAILED_PRECONDITION, "NOT_WRITTEN")
    error = await refusal(await writing(whole(2)))
    assert (error.code, error.reason) == (CODES.DATA_LOSS, "CHECKSUM")
    error = await refusal(await writing(whole(1), pb.WRITTEN_DIFFERENCE))
    assert (error.code, error.reason) == (CODES.NOT_FOUND, "NO_PARENT")
    assert not (await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))).versions
    await rpc.call(await writing(whole(1)))
    listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
    assert [(v.state, v.path) for v in listed.versions] == [(pb.VERSION_STATE_READY, pb.PATH_MAPPED)]
    fetched = [m.data async for m in stub.FetchTensors(pb.FetchTensorsRequest(version=manifest(1).version))]
    assert b"".join(fetched) == whole(1)
    for name, path, mapped in (("g0", pb.PATH_MAPPED, True), ("g1", pb.PATH_BULK, False), ("g1", pb.PATH_MAPPED, True)):
        await rpc.call(
            stub.ReportApplied(pb.ReportAppliedRequest(receiver=name, version=manifest(1).version, path=path))
        )
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest(2))))
        assert begun.all_mapped == mapped
    second = await push(stub, 2)
    listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
    assert [(v.version.step, v.path) for v in listed.versions][0] == (second.step, pb.PATH_WHOLE)


async def test_corrupted_bytes_are_data_loss_and_nothing_is_offered(stub: Any) -> None:
    m = manifest(1)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
    damaged = bytearray(whole(1))
    damaged[SIZE // 2 + 7] ^= 1
    error = await refusal(stub.PushTensors(messages(m.version, bytes(damaged))))
    assert error.code == CODES.DATA_LOSS and "'b'" in error.message
    error = await refusal(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
    assert error.code == CODES.NOT_FOUND
    listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
    assert list(listed.versions) == []
    await push(stub, 1)


async def test_what_lingers_of_an_older_attempt_touches_nothing_of_the_newer_one(
    stub: Any, store: VersionStore
) -> None:
    m, halves = manifest(1), (whole(1)[: SIZE // 2], whole(1)[SIZE // 2 :])
    older = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
    stale = list[tuple[asyncio.Queue[bytes], Any]]()
    for attempt in (0, older.attempt):  # a learner of a release before, which says none; and one of ours
        stale.append(pushing(stub, pb.PushTensorsRequest(version=m.version, data=b"damaged", attempt=attempt)))
    async with asyncio.timeout(10):
        while store.staging.find(m.version).receiver.received < len(b"damaged") * len(stale):
            await asyncio.sleep(0.01)
    newer = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
    assert 0 != newer.attempt != older.attempt
    pieces, push = pushing(stub, pb.PushTensorsRequest(version=m.version, attempt=newer.attempt))
    for start in range(0, SIZE // 2, CHUNK_BYTES):
        pieces.put_nowait(halves[0][start : min(start + CHUNK_BYTES, SIZE // 2)])
    for lingering, call in stale:
        lingering.put_nowait(b"x" * CHUNK_BYTES)
        lingering.put_nowait(b"")
        error = await refusal(call)
        assert (error.code, error.reason) == (CODES.NOT_FOUND, "NOT_STAGED")
    late = pb.PushTensorsRequest(version=m.version, attempt=older.attempt, data=b"damaged")
    for call in (
        stub.PushTensors(iter([late])),
        stub.PushDifference(iter([pb.PushDifferenceRequest(version=m.version, attempt=older.attempt)])),
        stub.CommitVersion(pb.CommitVersionRequest(version=m.version, attempt=older.attempt)),
        stub.CommitVersion(
            pb.CommitVersionRequest(version=m.version, attempt=older.attempt, written=pb.WRITTEN_TENSORS)
        ),
    ):
        error = await refusal(call)
        assert (error.code, error.reason) == (CODES.NOT_FOUND, "NOT_STAGED") and "older attempt" in error.message
    await rpc.call(stub.AbortVersion(pb.AbortVersionRequest(version=m.version, attempt=older.attempt)))
    for start in range(0, SIZE - SIZE // 2, CHUNK_BYTES):
        pieces.put_nowait(halves[1][start : start + CHUNK_BYTES])
    pieces.put_nowait(b"")
    assert (await rpc.call(push)).received == SIZE
    commit = pb.CommitVersionRequest(version=m.version, attempt=newer.attempt)
    for _ in range(2):
        await rpc.call(stub.CommitVersion(commit))
    fetched = [each.data async for each in stub.FetchTensors(pb.FetchTensorsRequest(version=m.version))]
    assert b"".join(fetched) == whole(1)


def pushing(stub: Any, first: pb.PushTensorsRequest) -> tuple["asyncio.Queue[bytes]", Any]:
    """A stream that goes on with what is put into the queue, until that is empty bytes."""
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def sent() -> AsyncIterator[pb.PushTensorsRequest]:
        yield first
        while piece := await pieces.get():
            yield pb.PushTensorsRequest(data=piece)

    return pieces, stub.PushTensors(sent())


async def test_an_attempt_is_aborted_by_its_number_or_whichever_it_is_without_one(stub: Any) -> None:
    m = manifest(1)
    for own in (True, False):
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
        aborted = pb.AbortVersionRequest(version=m.version, attempt=begun.attempt if own else 0)
        await rpc.call(stub.AbortVersion(aborted))
        assert not (await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))).versions
