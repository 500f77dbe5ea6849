"""A version is handed over until it is READY: what passes is repeated, what is refused for good is not."""

import asyncio
import os
import pathlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import in_place, make
from penstock.recipes import Recipe
from penstock.recipes.sections import WeightSync
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.interface.errors import AnotherLearner, CannotGoOn
from services.learner.interface.policy import Policy
from services.learner.publishing import publish as publishing
from services.learner.publishing import writing
from services.learner.publishing.differences import Differences
from services.learner.publishing.store_testing import Unasked

TENSORS = [("a", torch.arange(6.0).view(2, 3)), ("b", torch.zeros(0))]


class Store(Unasked):
    """Fails each call of BeginVersion with the next error, then takes what comes."""

    def __init__(self, errors: Sequence[rpc.Abort], held: PolicyVersion | None = None) -> None:
        self.held = held
        self.errors, self.begun, self.committed, self.data = list(errors), 0, list[int](), b""
        self.refuses: rpc.Abort | None = None
        self.attempts = list[int]()
        self.parents, self.differences = list[int | None](), list[bytes]()

    async def BeginVersion(self, request: pb.BeginVersionRequest, context: Any) -> pb.BeginVersionResponse:
        self.begun += 1
        self.parents.append(request.manifest.parent.step if request.manifest.HasField("parent") else None)
        if self.errors:
            raise self.errors.pop(0)
        return pb.BeginVersionResponse(attempt=self.begun)

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        state = pb.VERSION_STATE_READY
        return pb.ListVersionsResponse(versions=[pb.VersionInfo(version=self.held, state=state)] if self.held else [])

    async def PushTensors(self, requests: Any, context: Any) -> pb.PushTensorsResponse:
        pushed = [r async for r in requests]
        self.data = b"".join([r.data for r in pushed])
        self.attempts.append(pushed[0].attempt)
        return pb.PushTensorsResponse(received=len(self.data))

    async def PushDifference(self, requests: Any, context: Any) -> pb.PushDifferenceResponse:
        data = b"".join([r.data async for r in requests])
        if self.refuses is not None:
            raise self.refuses
        self.differences.append(data)
        return pb.PushDifferenceResponse(received=len(data))

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        self.committed.append(request.version.step)
        self.attempts.append(request.attempt)
        return pb.CommitVersionResponse()


def publish(store: Store, within: float = 10.0) -> bool:
    async def run() -> bool:
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            async with rpc.channel(server.address) as channel:
                return await publishing.publish(channel, 1, 7, TENSORS, within, recorded=9)

    return asyncio.run(run())


def test_what_passes_is_repeated_until_the_version_is_ready() -> None:
    store = Store(
        [rpc.unavailable("restarting", retry_after=0.01), rpc.resource_exhausted("disk full", retry_after=0.01)]
    )
    assert publish(store)
    assert (store.begun, store.committed) == (3, [7])
    assert store.attempts == [3, 3], "pushed and committed as the attempt that was begun"
    assert store.data == bytes(TENSORS[0][1].numpy().data)


def test_a_version_that_is_held_is_not_pushed() -> None:
    store = Store([rpc.already_exists("READY")])
    assert not publish(store)
    assert (store.begun, store.committed) == (1, [])


@pytest.mark.parametrize("step", [7, 9])
def test_a_replayed_step_is_not_pushed(step: int) -> None:
    """The step has another digest, or the version is retired: a later one of this run is READY."""
    store = Store([rpc.failed_precondition("newer")], PolicyVersion(epoch=1, step=step))
    assert not publish(store)
    assert (store.begun, store.committed) == (1, [])


def test_a_fenced_learner_ends_and_does_not_train_on() -> None:
    with pytest.raises(AnotherLearner, match=r"later learner \(epoch 2\) publishes; this one \(epoch 1\) ends"):
        publish(Store([rpc.failed_precondition("fenced")], PolicyVersion(epoch=2, step=7)))


@pytest.mark.parametrize("held", [None, PolicyVersion(epoch=1, step=6), PolicyVersion(epoch=1, step=2**63)])
def test_a_refusal_that_no_replay_explains_ends_the_learner(held: PolicyVersion | None) -> None:
    with pytest.raises(CannotGoOn, match="weight_sync refuses version 7"):
        publish(Store([rpc.failed_precondition("no")], held))


def test_a_refusal_for_good_is_raised_at_once() -> None:
    store = Store([rpc.invalid_argument("manifest")])
    with pytest.raises(rpc.RpcError, match="INVALID_ARGUMENT"):
        publish(store)
    assert store.begun == 1


def test_it_is_given_up_with_the_last_error_when_the_time_is_over() -> None:
    store = Store([rpc.unavailable("away", retry_after=60.0)] * 9)
    with pytest.raises(rpc.RpcError, match="away"):
        publish(store, within=5.0)
    assert store.begun == 1


def version(step: int) -> list[tuple[str, torch.Tensor]]:
    """Each has another element that is other than in the one before; from 1000 on all are."""
    if step >= 1000:
        return [("a", torch.randn(4096, generator=torch.manual_seed(step)).to(torch.bfloat16)), ("b", torch.zeros(0))]
    weights = torch.arange(4096, dtype=torch.float32).to(torch.bfloat16)
    weights[:step] = -1.0
    return [("a", weights), ("b", torch.zeros(0))]


def publish_all(store: Store, differences: Differences, *steps: int, host: str | None = None) -> list[bool]:
    async def run() -> list[bool]:
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            async with rpc.channel(server.address) as channel:
                kept: Any = {"recorded": 9, "differences": differences, "host": host}
                return [await publishing.publish(channel, 1, step, version(step), 10.0, **kept) for step in steps]

    return asyncio.run(run())


def bytes_of(step: int) -> bytes:
    return version(step)[0][1].view(torch.uint8).numpy().tobytes()


def made(before: int, difference: bytes) -> bytes:
    layout = (("a", "bfloat16", (4096,)), ("b", "float32", (0,)))
    tensors = [memoryview(bytearray(bytes_of(before))), memoryview(bytearray())]
    make(layout, [memoryview(difference)], in_place(tensors))
    return bytes(tensors[0])


def test_a_difference_is_only_ever_from_what_weight_sync_took_last() -> None:
    store, differences = Store([]), Differences(every=3)
    assert publish_all(store, differences, 1, 2, 3, 4, 5) == [True] * 5
    assert store.parents == [None, 1, 2, 3, 4] and store.committed == [1, 2, 3, 4, 5]
    assert [made(n, d) for n, d in zip((1, 2, 4), store.differences, strict=True)] == [bytes_of(n) for n in (2, 3, 5)]
    assert store.data == bytes_of(4), "every third is whole"
    store.errors = [rpc.failed_precondition("newer")]
    store.held = PolicyVersion(epoch=1, step=9)
    assert publish_all(store, differences, 6, 7) == [False, True]
    assert store.parents[-1] is None and store.data == bytes_of(7), "nobody knows what it has of version 6"


@pytest.mark.parametrize(
    "refusal",
    [
        rpc.not_found("the parent is retired"),
        rpc.data_loss("checksum"),
        rpc.invalid_argument("no difference"),
        rpc.resource_exhausted("no room for a difference beside its version"),
    ],
)
def test_where_a_difference_cannot_be_used_the_whole_is_pushed(refusal: rpc.Abort) -> None:
    store, differences = Store([]), Differences(every=9)
    publish_all(store, differences, 1)
    store.refuses = refusal
    assert publish_all(store, differences, 2) == [True]
    assert (store.committed, store.differences, store.data) == ([1, 2], [], bytes_of(2))
    store.refuses = None
    publish_all(store, differences, 3)
    assert made(2, store.differences[0]) == bytes_of(3)


def test_tensors_are_published_in_the_type_that_is_asked_for() -> None:
    class Exports:
        def owned(self) -> Iterator[tuple[str, torch.Tensor]]:
            yield "a", torch.full((2,), 1 / 3)

    def published(**settings: Any) -> torch.Tensor:
        recipe = SimpleNamespace(learner=SimpleNamespace(lora=None), weight_sync=WeightSync(**settings))
        ((_, tensor),) = publishing.weights_of(cast(Recipe, recipe), cast(Policy, Exports()))
        return tensor

    assert published().dtype == torch.float32
    assert torch.equal(published(dtype="bfloat16"), torch.full((2,), 1 / 3).bfloat16())


def test_a_difference_that_is_not_worth_it_or_not_wanted_is_not_pushed() -> None:
    store = Store([])
    publish_all(store, Differences(every=1), 1, 2)
    publish_all(store, Differences(every=9), 3, 4000)
    assert store.differences == [] and store.parents == [None, None, None, 3]
    assert Differences(every=1).parent is None


class Beside(Store):
    """A store on this host, with files of its own. refusals: what commits of what was written end with, in turn."""

    def __init__(self, folder: pathlib.Path, refusals: Sequence[rpc.Abort] = ()) -> None:
        super().__init__([])
        self.folder, self.refusals, self.written = folder, list(refusals), list[int]()
        self.boot_id, self.all_mapped = "here", False

    async def BeginVersion(self, request: pb.BeginVersionRequest, context: Any) -> pb.BeginVersionResponse:
        await super().BeginVersion(request, context)
        places = [self.folder / f"{kind}.staging" for kind in ("tensors", "difference")]
        for place, size in zip(places, (request.manifest.total_size, 0), strict=True):
            place.write_bytes(bytes(size))
        path, beside = map(str, places)
        return pb.BeginVersionResponse(
            path=path, difference_path=beside, boot_id=self.boot_id, all_mapped=self.all_mapped
        )

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        if request.written and self.refusals:
            raise self.refusals.pop(0)
        self.written.append(request.written)
        if request.written == pb.WRITTEN_TENSORS:
            self.data = (self.folder / "tensors.staging").read_bytes()
        if request.written == pb.WRITTEN_DIFFERENCE:
            self.differences.append((self.folder / "difference.staging").read_bytes())
        return await super().CommitVersion(request, context)


def test_on_weight_syncs_host_its_files_are_written_and_nothing_is_streamed(tmp_path: pathlib.Path) -> None:
    store, differences = Beside(tmp_path), Differences(every=3)
    assert publish_all(store, differences, 1, 2, 3, 4, host="here") == [True] * 4
    whole, difference = pb.WRITTEN_TENSORS, pb.WRITTEN_DIFFERENCE
    assert store.written == [whole, difference, difference, whole] and store.data == bytes_of(4)
    assert [made(n, d) for n, d in zip((1, 2), store.differences, strict=True)] == [bytes_of(2), bytes_of(3)]


def test_where_all_engines_are_on_the_host_no_difference_is_made_and_elsewhere_one_is(tmp_path: pathlib.Path) -> None:
    whole, difference, streamed = pb.WRITTEN_TENSORS, pb.WRITTEN_DIFFERENCE, pb.WRITTEN_UNSPECIFIED
    store, differences = Beside(tmp_path), Differences(every=9)
    store.all_mapped = True
    publish_all(store, differences, 1, 2, host="here")
    assert store.written == [whole, whole] and differences.parent is not None
    store.all_mapped = False  # an engine of another host has come: told with version 3
    publish_all(store, differences, 3, 4, host="here")
    assert store.written[2:] == [whole, difference] and made(3, store.differences[0]) == bytes_of(4)
    store.all_mapped = True
    publish_all(store, differences, 5, 6, host="elsewhere")  # the learner's own way is worth it
    assert store.written[4:] == [streamed] * 2 and len(store.differences) == 3


@pytest.mark.parametrize(
    "refusal",
    [
        rpc.failed_precondition("still open for writing", reason="NOT_WRITTEN"),
        rpc.data_loss("these are other bytes: its folder is not ours", reason="CHECKSUM"),
    ],
)
def test_what_weight_sync_does_not_take_as_it_was_written_is_streamed(
    tmp_path: pathlib.Path, refusal: rpc.Abort
) -> None:
    store = Beside(tmp_path, [refusal])
    assert publish_all(store, Differences(1), 1, host="here") == [True]
    assert (store.begun, store.written, store.data) == (2, [pb.WRITTEN_UNSPECIFIED], bytes_of(1))


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_on_another_host_everything_is_streamed(tmp_path: pathlib.Path, host: str | None) -> None:
    store = Beside(tmp_path)
    assert publish_all(store, Differences(9), 1, 2, host=host) == [True] * 2
    assert store.written == [pb.WRITTEN_UNSPECIFIED] * 2
    assert not any(b"".join(p.read_bytes() for p in tmp_path.iterdir()))


BUFFERS = st.lists(st.binary(max_size=3000), max_size=6)


@settings(max_examples=60)
@given(BUFFERS, st.integers(1, 700))
def test_buffers_of_any_size_lie_one_behind_the_other(
    tmp_path_factory: pytest.TempPathFactory, buffers: list[bytes], piece: int
) -> None:
    place = tmp_path_factory.mktemp("store") / "v.staging"
    whole = b"".join(buffers)
    place.write_bytes(bytes(len(whole)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writing, "PIECE_BYTES", piece)
        pieces, at = list[writing.Piece](), 0
        for buffer in buffers:
            pieces.append((at, memoryview(buffer)))
            at += len(buffer)
        assert writing.write(str(place), len(whole), pieces)
    assert place.read_bytes() == whole


def test_nothing_is_written_but_into_a_staged_file_of_the_right_size(tmp_path: pathlib.Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"keep")
    named = {name: tmp_path / f"{name}.staging" for name in ("link", "second", "longer", "folder", "pipe", "gone")}
    named["link"].symlink_to(kept)
    named["second"].write_bytes(b"keep")
    (tmp_path / "beside").hardlink_to(named["second"])
    named["longer"].write_bytes(b"keeps")
    named["folder"].mkdir()
    os.mkfifo(named["pipe"])
    for place in (kept, *named.values()):
        assert not writing.write(str(place), 4, [(0, memoryview(b"oops"))]), place
    assert kept.read_bytes() == named["second"].read_bytes() == b"keep" and named["longer"].read_bytes() == b"keeps"
