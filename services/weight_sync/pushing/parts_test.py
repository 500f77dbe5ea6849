"""A version that comes as several streams, of some tensors each, through the real server."""

import asyncio
import pathlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import rpc
from penstock.tensors import make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

Tensors = list[tuple[str, str, Sequence[int], bytes]]


def tensors_of(seed: int) -> Tensors:
    chance = random.Random(seed)
    sizes = [chance.choice([0, 1, 7, 100, 5000]) for _ in range(chance.randint(1, 12))]
    return [(f"t{i:02d}", "float32", [size], chance.randbytes(4 * size)) for i, size in enumerate(sizes)]


@asynccontextmanager
async def served(folder: pathlib.Path) -> AsyncIterator[tuple[VersionStore, Any]]:
    store = VersionStore(folder, keep=2)
    async with rpc.Server("weight_sync") as server:
        adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
        server.add(adder, WeightSync(store), raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
        await server.start()
        async with rpc.channel(server.address) as channel:
            yield store, weights_pb2_grpc.WeightSyncServiceStub(channel)


def part(manifest: pb.Manifest, tensors: Tensors, attempt: int, own: list[int], chunk: int) -> Iterator[Any]:
    """A rank's stream: where its first tensor begins, and wherever another one does not follow the one before."""
    first, end = pb.PushTensorsRequest(version=manifest.version, attempt=attempt), -1
    yield_first = True
    for index in own:
        place = manifest.tensors[index]
        if yield_first:
            first.offset = place.offset
            yield first
            yield_first = False
        elif place.offset != end:
            yield pb.PushTensorsRequest(offset=place.offset)
        data = tensors[index][3]
        for at in range(0, len(data), chunk):
            yield pb.PushTensorsRequest(data=data[at : at + chunk])
        end = place.offset + place.size


@pytest.mark.parametrize("seed", range(6))
async def test_however_tensors_are_dealt_out_the_version_is_that_of_one_stream(
    tmp_path: pathlib.Path, seed: int
) -> None:
    chance, tensors = random.Random(seed), tensors_of(seed)
    manifest = make_manifest(1, 1, tensors)
    ranks = chance.randint(1, 5)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for index in range(len(tensors)):
        chance.choice(dealt).append(index)
    for own in dealt:
        chance.shuffle(own)
    async with served(tmp_path) as (store, stub):
        for _ in range(2):  # as it is, and once more from the beginning
            begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest)))
            assert begun.takes_parts
            parts = [part(manifest, tensors, begun.attempt, own, chance.randint(1, 9000)) for own in dealt if own]
            received = await asyncio.gather(*(rpc.call(stub.PushTensors(each)) for each in parts))
            assert sum(answer.received for answer in received) == manifest.total_size
        commit = pb.CommitVersionRequest(version=manifest.version, attempt=begun.attempt)
        await rpc.call(stub.CommitVersion(commit))
        stored = store.get(manifest.version)
        assert stored is not None and bytes(stored.view) == b"".join(data for *_, data in tensors)


async def test_a_version_of_which_a_part_is_missing_is_not_committed(tmp_path: pathlib.Path) -> None:
    tensors: Tensors = [("a", "float32", [3], b"a" * 12), ("b", "float32", [2], b"b" * 8)]
    manifest = make_manifest(1, 1, tensors)
    async with served(tmp_path) as (store, stub):
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest)))
        await rpc.call(stub.PushTensors(part(manifest, tensors, begun.attempt, [1], 5)))
        commit = pb.CommitVersionRequest(version=manifest.version, attempt=begun.attempt)
        with pytest.raises(rpc.errors.FailedPrecondition, match="8 of 20 bytes received"):
            await rpc.call(stub.CommitVersion(commit))
        await rpc.call(stub.PushTensors(part(manifest, tensors, begun.attempt, [0], 5)))
        await rpc.call(stub.CommitVersion(commit))
        assert store.newest is not None and store.newest.step == 1


async def test_a_stream_that_broke_off_takes_its_tensor_with_it_and_another_one_may_bring_it(
    tmp_path: pathlib.Path,
) -> None:
    tensors: Tensors = [("a", "float32", [3], b"a" * 12), ("b", "float32", [2], b"b" * 8)]
    manifest = make_manifest(1, 1, tensors)
    async with served(tmp_path) as (_, stub):
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest)))
        head = pb.PushTensorsRequest(version=manifest.version, attempt=begun.attempt, offset=0)
        await rpc.call(stub.PushTensors(iter([head, pb.PushTensorsRequest(data=b"aaaa")])))
        await rpc.call(stub.PushTensors(part(manifest, tensors, begun.attempt, [1, 0], 5)))
        await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=manifest.version, attempt=begun.attempt)))


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        ([{"offset": 5}], "INVALID_ARGUMENT", "offset: no tensor of the version begins at byte 5"),
        ([{"offset": 2**64 - 1}], "INVALID_ARGUMENT", "no tensor of the version begins at byte"),
        ([{"offset": 0, "data": b"a"}, {"offset": 12}], "INVALID_ARGUMENT", "'a' has come in part"),
        ([{"data": b"a" * 12}, {"offset": 12}], "INVALID_ARGUMENT", "only a stream whose first message says"),
        ([{"offset": 12, "data": b"b" * 9}], "OUT_OF_RANGE", "21 bytes received, the version has 20"),
        ([{"offset": 12, "data": b"c" * 8}], "DATA_LOSS", "tensor 'b'"),
        ([{"offset": 0, "data": b"a" * 12}, {"offset": 0, "data": b"a"}], "FAILED_PRECONDITION", "'a' comes twice"),
    ],
)
async def test_a_stream_of_parts_that_makes_no_sense_is_refused_and_the_version_can_be_begun_again(
    tmp_path: pathlib.Path, messages: list[dict[str, Any]], code: str, words: str
) -> None:
    tensors: Tensors = [("a", "float32", [3], b"a" * 12), ("b", "float32", [2], b"b" * 8)]
    manifest = make_manifest(1, 1, tensors)
    async with served(tmp_path) as (store, stub):
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest)))
        sent = [pb.PushTensorsRequest(**message) for message in messages]
        sent[0].version.CopyFrom(manifest.version)
        sent[0].attempt = begun.attempt
        with pytest.raises(rpc.RpcError, match=words) as refused:
            await rpc.call(stub.PushTensors(iter(sent)))
        assert refused.value.code.name == code
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest)))
        await rpc.call(stub.PushTensors(part(manifest, tensors, begun.attempt, [0, 1], 5)))
        await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=manifest.version, attempt=begun.attempt)))
        assert store.newest is not None and store.newest.step == 1
