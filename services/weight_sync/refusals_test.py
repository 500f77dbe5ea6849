"""Every refusal has its documented code, and nothing of a refused request is left."""

import pathlib
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import digest, frame, make_manifest
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
