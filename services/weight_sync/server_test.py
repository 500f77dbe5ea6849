"""WeightSyncService over real gRPC: pushes, fetches, watching under holds, and the right refusal on every RPC."""

import asyncio
import pathlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import encoded, layout_of, tensors_in
from penstock.system.boot import boot_id
from penstock.tensors import CHUNK_BYTES, digest, frame, make_manifest, unframe
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

SERVICE = "/penstock.weights.v1.WeightSyncService/"
SIZE = 2 * CHUNK_BYTES + 4096
CODES = grpc.StatusCode


def whole(step: int) -> bytes:
    return bytes([step]) * SIZE


def manifest(step: int, epoch: int = 1) -> pb.Manifest:
    half, data = SIZE // 2, whole(step)
    return make_manifest(
        epoch, step, [("a", "bfloat16", [half // 2], data[:half]), ("b", "float32", [half // 4], data[half:])]
    )


def messages(version: PolicyVersion, data: bytes) -> Iterator[pb.PushTensorsRequest]:
    yield pb.PushTensorsRequest(version=version)
    for start in range(0, len(data), CHUNK_BYTES):
        yield pb.PushTensorsRequest(data=data[start : start + CHUNK_BYTES])


async def push(stub: Any, step: int, epoch: int = 1) -> PolicyVersion:
    m = manifest(step, epoch)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
    answer = await rpc.call(stub.PushTensors(messages(m.version, whole(step))))
    assert answer.received == SIZE
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
    return m.version


@pytest.fixture
def store(tmp_path: pathlib.Path) -> VersionStore:
    return VersionStore(tmp_path, keep=2)


@pytest_asyncio.fixture
async def channel(store: VersionStore) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.Server("weight_sync") as server:
        server.add(
            weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
            WeightSync(store),
            raw_requests=RAW_REQUESTS,
            raw_responses=RAW_RESPONSES,
        )
        await server.start()
        async with rpc.channel(server.address, default_seconds=10, stream_seconds=20) as opened:
            yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return weights_pb2_grpc.WeightSyncServiceStub(channel)


def raw(channel: grpc.aio.Channel) -> Any:
    """The channel, for bytes: its stubs take the type of a request from the serialiser alone, and here is none."""
    return channel


async def refusal(call: Any) -> rpc.RpcError:
    with pytest.raises(rpc.RpcError) as error:
        await rpc.call(call)
    return error.value


async def stream_refusal(call: Any) -> rpc.RpcError:
    with pytest.raises(rpc.RpcError) as error, rpc.translated():
        async for _ in call:
            continue
    return error.value


@asynccontextmanager
async def watching(stub: Any, receiver: str = "g") -> AsyncIterator[asyncio.Queue[int]]:
    """Steps as a receiver hears of them."""
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def listen() -> None:
        async for told in stub.WatchVersions(pb.WatchVersionsRequest(receiver=receiver)):
            heard.put_nowait(told.version.step)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def next_step(heard: "asyncio.Queue[int]") -> int:
    return await asyncio.wait_for(heard.get(), 10)


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


async def test_a_watcher_hears_of_ready_versions_alone(stub: Any) -> None:
    async with watching(stub) as heard:
        m = manifest(1)
        await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
        await rpc.call(stub.PushTensors(messages(m.version, whole(1))))
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert [v.state for v in listed.versions] == [pb.VERSION_STATE_STAGING] and heard.empty()
        await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
        assert await next_step(heard) == 1
        await push(stub, 2)
        assert await next_step(heard) == 2
    async with watching(stub) as late:
        assert await next_step(late) == 2


async def test_a_hold_keeps_watchers_at_its_step_until_it_is_released(stub: Any) -> None:
    await push(stub, 1)
    hold = pb.HoldVersionsRequest(holder="evaluation", step=1)
    hold.lease.FromSeconds(60)
    await rpc.call(stub.HoldVersions(hold))
    async with watching(stub) as heard:
        assert await next_step(heard) == 1
        second = await push(stub, 2)
        ahead = stub.WatchVersions(pb.WatchVersionsRequest(receiver="ahead", held=second), timeout=0.3)
        assert (await stream_refusal(ahead)).code == CODES.DEADLINE_EXCEEDED  # nobody is moved back by a hold
        async with watching(stub, "other") as other:
            assert await next_step(other) == 1  # asked after version 2 was READY
        assert heard.empty()
        await rpc.call(stub.ReleaseHold(pb.ReleaseHoldRequest(holder="evaluation")))
        assert await next_step(heard) == 2


async def test_a_held_version_outlives_the_bound_on_versions(stub: Any) -> None:
    version = await push(stub, 1)
    hold = pb.HoldVersionsRequest(holder="evaluation", step=1)
    hold.lease.FromSeconds(60)
    await rpc.call(stub.HoldVersions(hold))
    for step in range(2, 6):
        await push(stub, step)
    async with watching(stub) as heard:
        assert await next_step(heard) == 1
    await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version)))
    await rpc.call(stub.ReleaseHold(pb.ReleaseHoldRequest(holder="evaluation")))
    await push(stub, 6)
    assert (await refusal(stub.GetManifest(pb.GetManifestRequest(version=version)))).code == CODES.NOT_FOUND


async def test_watchers_go_back_with_a_rollback_and_on_with_a_promotion(stub: Any) -> None:
    first = await push(stub, 1)
    await push(stub, 2)

    async def decide(step: int, decision: pb.Decision) -> int:
        answer = await rpc.call(stub.DecideVersion(pb.DecideVersionRequest(step=step, decision=decision)))
        return int(answer.served.step)

    async with watching(stub) as heard:
        assert await next_step(heard) == 2
        assert await decide(1, pb.DECISION_ROLL_BACK) == 1
        assert await next_step(heard) == 1
        third = await push(stub, 3)
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert listed.served == first and heard.empty()
        assert [i.state for i in listed.versions][0] == pb.VERSION_STATE_VERIFIED
        assert await decide(3, pb.DECISION_PROMOTE) == 3
        assert await next_step(heard) == 3
        assert await decide(3, pb.DECISION_REJECT) == 1
        assert await next_step(heard) == 1
    held = stub.WatchVersions(pb.WatchVersionsRequest(receiver="h", held=third))
    assert (await anext(aiter(held))).version == first  # it holds what was rejected while it was away
    held.cancel()
    error = await refusal(stub.DecideVersion(pb.DecideVersionRequest(step=1, decision=pb.DECISION_REJECT)))
    assert error.code == CODES.FAILED_PRECONDITION and "nothing would be left" in error.message
    error = await refusal(stub.DecideVersion(pb.DecideVersionRequest(step=9, decision=pb.DECISION_PROMOTE)))
    assert (error.code, error.reason) == (CODES.NOT_FOUND, "NO_VERSION")
    assert (await refusal(stub.DecideVersion(pb.DecideVersionRequest(step=1)))).code == CODES.INVALID_ARGUMENT


async def test_a_hold_that_is_not_renewed_ends_by_itself(stub: Any) -> None:
    await push(stub, 1)
    await push(stub, 2)
    hold = pb.HoldVersionsRequest(holder="dead", step=1)
    hold.lease.FromMilliseconds(300)
    await rpc.call(stub.HoldVersions(hold))
    async with watching(stub) as heard:
        assert await next_step(heard) == 1
        assert await next_step(heard) == 2


async def test_what_receivers_report_is_listed(stub: Any) -> None:
    version = await push(stub, 1)
    for name, pause in (("g0", 0.2), ("g1", 0.4)):
        report = pb.ReportAppliedRequest(receiver=name, version=version)
        report.pause.FromNanoseconds(int(pause * 1e9))
        await rpc.call(stub.ReportApplied(report))
    await rpc.call(stub.ReportApplied(pb.ReportAppliedRequest(receiver="g2", version=version, error="OSError: x")))
    listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
    assert listed.applied == 2 and listed.pause_median.ToMilliseconds() == 300
    assert {r.name: (r.version.step, r.error) for r in listed.receivers} == {
        "g0": (1, ""),
        "g1": (1, ""),
        "g2": (0, "OSError: x"),
    }


async def test_every_refusal_has_its_documented_code(stub: Any) -> None:
    first = await push(stub, 2, epoch=2)
    unknown = PolicyVersion(epoch=9, step=9)
    begin, fetch = pb.BeginVersionRequest, pb.FetchTensorsRequest
    cases: list[tuple[Any, grpc.StatusCode]] = [
        (stub.BeginVersion(begin(manifest=manifest(2, 2))), CODES.ALREADY_EXISTS),
        (stub.BeginVersion(begin(manifest=manifest(3, 1))), CODES.FAILED_PRECONDITION),
        (stub.BeginVersion(begin(manifest=manifest(1, 2))), CODES.FAILED_PRECONDITION),
        (stub.PushTensors(messages(unknown, b"x")), CODES.NOT_FOUND),
        (stub.PushTensors(iter([pb.PushTensorsRequest(data=b"x")])), CODES.INVALID_ARGUMENT),
        (stub.CommitVersion(pb.CommitVersionRequest(version=unknown)), CODES.NOT_FOUND),
        (stub.GetManifest(pb.GetManifestRequest(version=unknown)), CODES.NOT_FOUND),
        (stub.HoldVersions(pb.HoldVersionsRequest(holder="h", step=1)), CODES.INVALID_ARGUMENT),
    ]
    for call, code in cases:
        assert (await refusal(call)).code == code
    assert (await stream_refusal(stub.FetchTensors(fetch(version=unknown)))).code == CODES.NOT_FOUND
    assert (await stream_refusal(stub.FetchTensors(fetch(version=first, offset=SIZE + 1)))).code == CODES.OUT_OF_RANGE
    m = manifest(3, 2)
    await rpc.call(stub.BeginVersion(begin(manifest=m)))
    error = await refusal(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
    assert (error.code, error.reason) == (CODES.FAILED_PRECONDITION, "INCOMPLETE")
    error = await refusal(stub.PushTensors(messages(m.version, whole(3) + b"more")))
    assert (error.code, error.reason) == (CODES.OUT_OF_RANGE, "TOO_MANY_BYTES")
    for call in (
        stub.AbortVersion(pb.AbortVersionRequest(version=unknown)),
        stub.ReleaseHold(pb.ReleaseHoldRequest(holder="x")),
    ):
        await rpc.call(call)  # idempotent


async def test_without_room_the_caller_is_told_how_much_is_needed(stub: Any) -> None:
    huge = make_manifest(1, 1, [("a", "float32", [1], b"1234")])
    huge.tensors[0].shape[:] = [2**50]
    huge.tensors[0].size = huge.total_size = 2**52
    huge.version.digest = digest(huge.tensors)
    error = await refusal(stub.BeginVersion(pb.BeginVersionRequest(manifest=huge)))
    assert error.code == CODES.RESOURCE_EXHAUSTED and str(2**52) in error.message


UNARY = ("BeginVersion", "CommitVersion", "AbortVersion", "GetManifest", "ReportApplied", "HoldVersions", "ReleaseHold")


async def test_a_manifest_of_no_bytes_or_too_many_is_invalid_and_leaves_nothing(
    channel: grpc.aio.Channel, stub: Any, tmp_path: pathlib.Path
) -> None:
    empty = make_manifest(1, 1, [("a", "float32", [0], b"")])
    empty.tensors[0].checksum = bytes(16)
    endless = make_manifest(1, 1, [("a", "bfloat16", [0], b"")])
    endless.tensors[0].shape[:] = [2**62]
    endless.tensors[0].size = endless.total_size = 2**63
    for made, field in ((empty, "checksum"), (endless, "total_size")):
        made.version.digest = digest(made.tensors)
        error = await refusal(stub.BeginVersion(pb.BeginVersionRequest(manifest=made)))
        assert error.code is CODES.INVALID_ARGUMENT and field in error.message
    assert list(tmp_path.iterdir()) == []
    whole_one = make_manifest(1, 1, [("a", "float32", [0], b""), ("b", "float32", [0, 2**40], b"")])
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=whole_one)))
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=whole_one.version)))


async def test_nobody_pushes_a_version_behind_which_no_learner_could_come(stub: Any) -> None:
    for epoch, step in ((1, 2**63), (2**63, 1), (2**64 - 1, 2**64 - 1)):
        error = await refusal(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest_of(epoch, step))))
        assert error.code is CODES.FAILED_PRECONDITION and "no learner could follow" in error.message
    await push(stub, 1)
    assert (await push(stub, 2, epoch=3)).step == 2


def manifest_of(epoch: int, step: int) -> pb.Manifest:
    return make_manifest(epoch, step, [("a", "float32", [1], bytes(4))])


async def test_malformed_bytes_are_invalid_on_every_rpc(channel: grpc.aio.Channel) -> None:
    for name in (*UNARY, "ListVersions"):
        assert (await refusal(raw(channel).unary_unary(SERVICE + name)(b"\xff\xff"))).code == CODES.INVALID_ARGUMENT
    for name in ("WatchVersions", "FetchTensors"):
        assert (
            await stream_refusal(raw(channel).unary_stream(SERVICE + name)(b"\xff\xff"))
        ).code == CODES.INVALID_ARGUMENT
    error = await refusal(raw(channel).stream_unary(SERVICE + "PushTensors")(iter([b"\xff\xff"])))
    assert error.code == CODES.INVALID_ARGUMENT


async def test_empty_requests_name_the_field_that_is_missing(channel: grpc.aio.Channel) -> None:
    for name in UNARY:
        error = await refusal(raw(channel).unary_unary(SERVICE + name)(b""))
        assert error.code == CODES.INVALID_ARGUMENT and error.violations
    error = await stream_refusal(raw(channel).unary_stream(SERVICE + "WatchVersions")(b""))
    assert error.code == CODES.INVALID_ARGUMENT and error.violations[0].field == "receiver"


async def test_oversized_messages_are_refused_and_the_server_lives(channel: grpc.aio.Channel, stub: Any) -> None:
    m = manifest(1)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
    chunk = pb.PushTensorsRequest(version=m.version, data=bytes(3 << 20))
    assert (await refusal(stub.PushTensors(iter([chunk])))).code == CODES.INVALID_ARGUMENT
    framed = frame(bytes(3 << 20), field=pb.PushTensorsRequest.DATA_FIELD_NUMBER)
    first = pb.PushTensorsRequest(version=m.version).SerializeToString()
    assert (
        await refusal(raw(channel).stream_unary(SERVICE + "PushTensors")(iter([first, framed])))
    ).code == CODES.INVALID_ARGUMENT
    beyond = pb.BeginVersionRequest()
    beyond.manifest.tensors.add(name="x" * (33 << 20))
    with pytest.raises(rpc.RpcError):
        await rpc.call(stub.BeginVersion(beyond))
    await push(stub, 2)
