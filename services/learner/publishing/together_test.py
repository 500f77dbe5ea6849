"""Real ranks publish one version together: it is that of one rank alone, or none."""

import asyncio
import dataclasses
import os
import pathlib
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist

from penstock import rpc
from penstock.differences import encoded, layout_of, tensors_in
from penstock.rpc import Security, channel
from penstock.tensors import digest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.interface.errors import CannotGoOn
from services.learner.publishing import following
from services.learner.publishing import publish as module
from services.learner.publishing.differences import Differences
from services.learner.publishing.following import Follower
from services.learner.publishing.publish import publish
from services.learner.publishing.store_testing import Unasked
from services.learner.publishing.together import Together, ranks
from services.learner.testing.forked_ranks import run_ranks

Tensors = list[tuple[str, torch.Tensor]]
EVERY = 4
"""Of so many versions one is whole."""


def version_of(step: int) -> Tensors:
    """Few numbers are others than those of the step before."""
    chance = torch.Generator().manual_seed(7)
    made = list[tuple[str, torch.Tensor]]()
    for index in range(12):
        size = int(torch.randint(1, 5000, (1,), generator=chance)) * (index % 5 > 0)
        words = torch.randn(size, generator=chance).to(torch.bfloat16)
        words[: step % 7] += float(step)
        made.append((f"layers.{index}.weight", words))
    return made


def dealt(tensors: Tensors, seed: int, rank: int, world: int) -> Tensors:
    """A rank's, in an order of its own; the last one may have none."""
    chance = random.Random(seed)
    owners = [chance.randrange(max(1, world - seed % 2)) for _ in tensors]
    own = [tensor for tensor, owner in zip(tensors, owners, strict=True) if owner == rank]
    random.Random(seed + rank).shuffle(own)
    return own


@dataclasses.dataclass
class Store(Unasked):
    """Keeps what comes. pushes: what calls of PushTensors end with, in turn; folder: where its files are, if any."""

    folder: pathlib.Path | None = None
    takes_parts: bool = True
    pushes: list[rpc.Abort] = dataclasses.field(default_factory=list)
    commits: list[rpc.Abort] = dataclasses.field(default_factory=list)
    begun: list[pb.Manifest] = dataclasses.field(default_factory=list)
    streams: int = 0
    versions: list[tuple[pb.Manifest, bytes, pb.Written]] = dataclasses.field(default_factory=list)

    async def BeginVersion(self, request: pb.BeginVersionRequest, context: Any) -> pb.BeginVersionResponse:
        self.begun.append(request.manifest)
        self._data, self._difference = bytearray(request.manifest.total_size), b""
        answer = pb.BeginVersionResponse(attempt=len(self.begun), takes_parts=self.takes_parts, boot_id="here")
        if self.folder is not None:
            place = self.folder / "tensors.staging"
            place.write_bytes(bytes(request.manifest.total_size))
            answer.path = str(place)
        return answer

    async def OpenPush(self, request: pb.OpenPushRequest, context: Any) -> pb.OpenPushResponse:
        raise rpc.failed_precondition("there is no bulk socket", reason="NO_BULK")

    async def PushTensors(self, requests: Any, context: Any) -> pb.PushTensorsResponse:
        at, self.streams = 0, self.streams + 1
        async for request in requests:
            assert self.takes_parts or not request.HasField("offset")
            assert request.attempt in (0, len(self.begun)), "of the attempt under way"
            at = request.offset if request.HasField("offset") else at
            self._data[at : at + len(request.data)] = request.data
            at += len(request.data)
        if self.pushes:
            raise self.pushes.pop(0)
        return pb.PushTensorsResponse()

    async def PushDifference(self, requests: Any, context: Any) -> pb.PushDifferenceResponse:
        self._difference = b"".join([request.data async for request in requests])
        return pb.PushDifferenceResponse()

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        if self.commits:
            raise self.commits.pop(0)
        if request.written:  # the real one has streams and writers in one file
            assert self.folder is not None
            written = (self.folder / "tensors.staging").read_bytes()
            assert not any(a and b for a, b in zip(self._data, written, strict=True)), "each byte came once"
            self._data[:] = bytes(a | b for a, b in zip(self._data, written, strict=True))
        self.versions.append((self.begun[-1], self._difference or bytes(self._data), request.written))
        return pb.CommitVersionResponse()


def rank(store: Store, steps: Sequence[int], seed: int, hosts: Sequence[str]) -> Any:
    """Publishes versions as a learner's rank does; on rank 0 what the store has of them, and what went wrong."""
    own, world, said = dist.get_rank(), dist.get_world_size(), ""
    group = ranks()
    assert isinstance(group, Together)
    if own:
        follower = Follower(group, Security(), hosts[own], EVERY)
        for step in steps:
            follower.begin(dealt(version_of(step), seed, own, world))
        follower.settle()
        return None

    async def lead() -> str:
        kept = Differences(EVERY)
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            async with rpc.channel(server.address) as channel:
                for step in steps:
                    given = dealt(version_of(step), seed, 0, world)
                    try:
                        await publish(
                            channel, 1, step, given, 20, recorded=99, differences=kept, host=hosts[0], ranks=group,
                            address=server.address,
                        )  # fmt: skip
                    except (rpc.RpcError, CannotGoOn) as error:
                        return str(error)
        return ""

    said = asyncio.run(lead())
    kept = [(manifest.SerializeToString(), data, int(written)) for manifest, data, written in store.versions]
    return kept, store.streams, len(store.begun), said


def alone(step: int) -> tuple[pb.Manifest, bytes]:
    """What one rank publishes."""
    return run_alone(version_of(step), step)


def run_alone(tensors: Tensors, step: int) -> tuple[pb.Manifest, bytes]:
    store = Store()

    async def lead() -> None:
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            async with rpc.channel(server.address) as channel:
                await publish(channel, 1, step, tensors, 20, recorded=99)

    asyncio.run(lead())
    ((manifest, data, _),) = store.versions
    return manifest, data


def published(found: Any) -> list[tuple[pb.Manifest, bytes, int]]:
    return [(pb.Manifest.FromString(manifest), data, written) for manifest, data, written in found[0][0]]


@pytest.mark.parametrize(("world", "seed"), [(2, 1), (3, 2), (3, 5)])
def test_however_tensors_are_dealt_out_to_ranks_weight_sync_gets_the_version_of_one_rank_alone(
    world: int, seed: int
) -> None:
    steps = [1, 2, 3, 4, 5]
    found = run_ranks(world, rank, Store(), steps, seed, ["elsewhere"] * world)
    versions = published(found)
    expected = dict(
        run_ranks(1, lambda: {step: (m.SerializeToString(), d) for step in steps for m, d in [alone(step)]})[0]
    )
    wholes = {step: (pb.Manifest.FromString(manifest), data) for step, (manifest, data) in expected.items()}
    assert [manifest.version.step for manifest, *_ in versions] == steps
    for manifest, data, _ in versions:
        step = manifest.version.step
        one, whole = wholes[step]
        assert manifest.version.digest == one.version.digest == digest(manifest.tensors)
        if step in (1, 5):
            assert data == whole, "whole"
            continue
        before = wholes[step - 1]
        old, new = (tensors_in(m, memoryview(d)) for m, d in (before, (one, whole)))
        assert data == encoded(layout_of(one), old, new, 1.0), "what one rank would have pushed"
        assert manifest.parent == wholes[step - 1][0].version
    assert found[0][1] <= 2 * world and not found[0][3]


def test_ranks_on_weight_syncs_host_write_its_file_while_the_others_stream(tmp_path: pathlib.Path) -> None:
    found = run_ranks(3, rank, Store(folder=tmp_path), [1], 2, ["here", "elsewhere", "here"])
    ((_, data, written),) = published(found)
    assert written == pb.WRITTEN_TENSORS and found[0][1] == 1
    assert data == run_ranks(1, _bytes_alone, 1)[0]


def test_what_a_rank_could_not_push_is_pushed_again_by_all(tmp_path: pathlib.Path) -> None:
    store = Store(pushes=[rpc.unavailable("it is being started again", retry_after=0.01)])
    found = run_ranks(3, rank, store, [1], 2, ["elsewhere"] * 3)
    ((_, data, _),) = published(found)
    assert found[0][2] == 2 and found[0][3] == "" and data == run_ranks(1, _bytes_alone, 1)[0]


def test_what_weight_sync_does_not_take_as_ranks_wrote_it_is_streamed_by_all(tmp_path: pathlib.Path) -> None:
    store = Store(folder=tmp_path, commits=[rpc.failed_precondition("still open", reason="NOT_WRITTEN")])
    found = run_ranks(2, rank, store, [1], 2, ["here", "here"])
    ((_, data, written),) = published(found)
    assert written == pb.WRITTEN_UNSPECIFIED and data == run_ranks(1, _bytes_alone, 1)[0]


def test_a_rank_that_is_refused_ends_all_with_its_words(tmp_path: pathlib.Path) -> None:
    store = Store(pushes=[rpc.invalid_argument("no such thing")] * 3)
    found = run_ranks(2, rank, store, [1], 2, ["elsewhere"] * 2)
    assert published(found) == [] and "no such thing" in found[0][3]


def test_an_older_weight_sync_gets_one_stream() -> None:
    found = run_ranks(3, rank, Store(takes_parts=False), [1, 2, 3, 4, 5], 2, ["elsewhere"] * 3)
    assert found[0][1] == 2 and found[0][3] == "", "of the first and of the fifth version"
    assert published(found)[4][1] == run_ranks(1, _bytes_alone, 5)[0]


def _broken(store: Store) -> Any:
    if dist.get_rank():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(following, "put", None)
            return rank(store, [1], 2, ["elsewhere"] * 2)
    return rank(store, [1], 2, ["elsewhere"] * 2)


def test_a_rank_that_fails_in_a_way_nobody_thought_of_is_named() -> None:
    found = run_ranks(2, _broken, Store())
    assert "rank 1: TypeError" in found[0][3] and published(found) == []


def _bytes_alone(step: int) -> bytes:
    return alone(step)[1]


def _leads(store: Store, wrong: str) -> Any:
    """A rank 0 that fails in one of its ways and then publishes the next version; seconds that took, on every rank."""
    began, patched = time.monotonic(), pytest.MonkeyPatch()
    if dist.get_rank():
        return rank(store, [1, 2], 2, ["elsewhere"] * 2), time.monotonic() - began
    group, kept, said = ranks(), Differences(EVERY), list[str]()

    async def fails(*_: Any, **__: Any) -> Any:
        if wrong == "cancelled in put":
            await asyncio.Event().wait()
        raise TypeError("nobody thought of it")

    async def lead() -> None:
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            async with rpc.channel(server.address) as channel:
                for step in (1, 2):
                    given = dealt(version_of(step), 2, 0, 2)
                    how: dict[str, Any] = {"recorded": 99, "differences": kept, "ranks": group}
                    task = asyncio.create_task(publish(channel, 1, step, given, 20, address=server.address, **how))
                    if wrong.startswith("cancelled") and step == 1:
                        await asyncio.wait([task], timeout=0.5 if "put" in wrong else 0)
                        task.cancel()
                    try:
                        await task
                    except (asyncio.CancelledError, rpc.RpcError, TypeError) as error:
                        said.append(f"{type(error).__name__}: {error}")
                    patched.undo()

    if wrong == "offer":
        patched.setattr(module, "offer", lambda *_: 1 / 0)
    elif "put" in wrong:
        patched.setattr(module, "put", fails)
    asyncio.run(lead())
    return said, [manifest.version.step for manifest, _, _ in store.versions], time.monotonic() - began


@pytest.mark.parametrize("wrong", ["offer", "put", "cancelled in put", "cancelled at once"])
def test_wherever_rank_0_fails_or_is_cancelled_the_others_are_told_and_the_next_version_is_published(
    wrong: str,
) -> None:
    (said, versions, lasted), (_, followed) = run_ranks(2, _leads, Store(), wrong)
    assert versions == [2] and len(said) == 1, said
    assert ("Cancelled" in said[0]) == wrong.startswith("cancelled")
    assert max(lasted, followed) < 45


def _unreached(store: Store) -> Any:
    if dist.get_rank():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(following, "REACH_SECONDS", 0.2)
            patched.setattr(rpc, "channel", lambda *_, **__: channel("127.0.0.1:1"))
            return rank(store, [1], 2, ["elsewhere"] * 2)
    return rank(store, [1], 2, ["elsewhere"] * 2)


def test_what_a_rank_without_a_way_to_weight_sync_has_is_put_by_rank_0() -> None:
    found = run_ranks(2, _unreached, Store())
    ((_, data, _),) = published(found)
    assert found[0][2] == 3, "one slow connection is no reason to have all of it in one place"
    assert data == run_ranks(1, _bytes_alone, 1)[0]


def _dies(store: Store) -> Any:
    """What rank 0 says when the other one dies over its put, and how long it took."""
    if dist.get_rank() == 1:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(following, "put", lambda *_: os._exit(0))
            return rank(store, [1], 2, ["elsewhere"] * 2)
    began = time.monotonic()
    with pytest.raises(RuntimeError):
        rank(store, [1], 2, ["elsewhere"] * 2)
    pathlib.Path(os.environ["SEEN"]).write_text(str(time.monotonic() - began))
    os._exit(0)


def test_a_rank_that_dies_in_the_middle_of_a_version_is_not_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    with pytest.raises(FileNotFoundError):  # no rank has a result
        run_ranks(2, _dies, Store())
    assert float((tmp_path / "seen").read_text()) < 45
