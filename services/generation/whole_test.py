"""A fetched file is the version or nothing, whatever happens to the stream. Against the real weight_sync server."""

import errno
import os
import pathlib
from typing import Any

import pytest

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import source
from penstock.fetching.source import ATTEMPTS, FETCHING, Source
from penstock.fetching.whole import FetchFailed, described, failing, fetch
from penstock.tensors import CHUNK_BYTES, frame
from penstock.weights.v1 import weights_pb2 as pb
from services.generation.weights_testing import SIZE, Weights, connected, weight_sync, whole
from services.weight_sync.server import WeightSync


async def fetched(weights: Weights, version: PolicyVersion, path: pathlib.Path) -> pb.Manifest:
    async with connected(weights) as channel:
        return await fetch(channel, version, path)


async def test_a_fetched_file_is_the_versions_bytes(tmp_path: pathlib.Path) -> None:
    async with weight_sync(tmp_path / "store") as weights:
        first, second = await weights.publish(1), await weights.publish(2)
        path = tmp_path / "version.bin"
        for expected in (second, first):  # over a file that holds another version already
            assert await fetched(weights, expected.version, path) == expected
            assert path.read_bytes()[:SIZE] == whole(expected.version.step)


async def test_a_broken_stream_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
    class Breaking(WeightSync):
        """Ends every stream after one chunk: with UNAVAILABLE, and once as if it were complete."""

        offsets: list[int] = []

        async def FetchTensors(self, request: pb.FetchTensorsRequest, context: Any) -> Any:  # AsyncIterator[bytes]: raw
            self.offsets.append(request.offset)
            async for message in super().FetchTensors(request, context):
                yield message
                if len(self.offsets) == 2:
                    return
                raise rpc.unavailable("restarting", retry_after=0.01)

    async with weight_sync(tmp_path / "store", Breaking) as weights:
        made = await weights.publish(1)
        await fetched(weights, made.version, tmp_path / "version.bin")
        assert (tmp_path / "version.bin").read_bytes()[:SIZE] == whole(1)
    assert Breaking.offsets[:3] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES]


async def test_a_stream_that_always_breaks_is_given_up(tmp_path: pathlib.Path) -> None:
    class Ending(WeightSync):
        calls = 0

        async def FetchTensors(self, request: pb.FetchTensorsRequest, context: Any) -> Any:  # AsyncIterator[bytes]: raw
            Ending.calls += 1
            yield frame(b"\1" * 10)

    async with weight_sync(tmp_path / "store", Ending) as weights:
        made = await weights.publish(1)
        with pytest.raises(FetchFailed, match="the stream ended before the version did"):
            await fetched(weights, made.version, tmp_path / "version.bin")
    assert Ending.calls == ATTEMPTS


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (frame(b"\7" * SIZE), "checksum"),
        (frame(whole(1) + b"more"), f"{SIZE + 4} bytes received"),
        (b"\xff\xff", "DecodeError"),
    ],
    ids=["another version's", "too many", "no message"],
)
async def test_wrong_bytes_are_never_taken_for_the_version(tmp_path: pathlib.Path, sent: bytes, reason: str) -> None:
    class Damaging(WeightSync):
        async def FetchTensors(self, request: pb.FetchTensorsRequest, context: Any) -> Any:  # AsyncIterator[bytes]: raw
            yield sent

    async with weight_sync(tmp_path / "store", Damaging) as weights:
        made = await weights.publish(1)
        with pytest.raises(FetchFailed, match=reason):
            await fetched(weights, made.version, tmp_path / "version.bin")


async def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: pathlib.Path) -> None:
    class Lying(WeightSync):
        async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> pb.GetManifestResponse:
            answer = await super().GetManifest(request, context)
            answer.manifest.tensors[1].offset += 4
            return answer

    async with weight_sync(tmp_path / "store", Lying) as weights:
        made = await weights.publish(1)
        with pytest.raises(FetchFailed, match="no gaps"):
            await fetched(weights, made.version, tmp_path / "version.bin")


async def test_a_retired_version_an_absent_server_and_a_full_disk_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "version.bin"
    async with weight_sync(tmp_path / "store") as weights:
        old = await weights.publish(1)
        for step in (2, 3):
            newest = await weights.publish(step)
        with pytest.raises(FetchFailed, match="version 1: NotFound: .*unknown or retired"):
            await fetched(weights, old.version, path)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            with pytest.raises(FetchFailed, match="No space left"):
                await fetched(weights, newest.version, path)
    with pytest.raises(FetchFailed, match="Unavailable"):
        await fetched(weights, newest.version, path)


async def test_a_relay_that_is_always_fetching_is_left_in_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fetching(WeightSync):
        calls = 0

        async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> pb.GetManifestResponse:
            Fetching.calls += 1
            raise rpc.unavailable("it is being fetched", retry_after=0.1, reason=FETCHING)

    monkeypatch.setattr(source, "FETCHING_SECONDS", 1.0)
    async with weight_sync(tmp_path / "store", Fetching) as weights, connected(weights) as channel:
        made = await weights.publish(1)
        with pytest.raises(FetchFailed, match="being fetched"), failing(made.version):
            await described(Source(channel, relay="relay-1"), made.version)
    assert 2 <= Fetching.calls <= 11, "it is asked again after a pause"
