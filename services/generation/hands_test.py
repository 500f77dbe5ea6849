"""What comes into a replica's hands, by every way, against a real weight_sync server."""

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import FetchFailed, Hands, Held
from penstock.fetching import hands as hands_module
from penstock.system.boot import boot_id
from penstock.tensors import frame
from penstock.weights.v1 import weights_pb2 as pb
from services.generation import weights_testing
from services.generation.weights_testing import SIZE, Weights, connected, weight_sync, whole
from services.weight_sync.server import WeightSync

MAPPED, DIFFERENCE, WHOLE = pb.PATH_MAPPED, pb.PATH_DIFFERENCE, pb.PATH_WHOLE


@pytest_asyncio.fixture
async def weights(tmp_path: pathlib.Path) -> AsyncIterator[Weights]:
    async with weight_sync(tmp_path / "store") as running:
        yield running


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "hands"
    made.mkdir()
    return made


def has(held: Held) -> bytes:
    return held.file.read_bytes()


async def test_on_the_stores_host_its_file_is_mapped_and_no_byte_crosses_a_socket(
    weights: Weights, folder: pathlib.Path
) -> None:
    hands = Hands(folder, boot_id())
    async with connected(weights) as channel:
        first = await hands.take(channel, (await weights.publish(1)).version)
        assert (first.way, first.crossed, has(first)) == (MAPPED, 0, whole(1))
        for step in (2, 3, 4):
            await weights.publish(step)
        assert weights.store.get(first.manifest.version) is None
        assert has(first) == whole(1), "a retired version is whole in the hands"
        last = await hands.take(channel, weights.store.served() or PolicyVersion())
        assert (last.way, has(last)) == (MAPPED, whole(4)) and not first.file.exists()
    assert list(folder.iterdir()) == []
    hands.release()
    assert not last.file.exists()


@pytest.mark.parametrize("host", [None, "another"])
async def test_elsewhere_all_bytes_come_once_and_then_what_has_changed(
    weights: Weights, folder: pathlib.Path, host: str | None
) -> None:
    hands = Hands(folder, host)
    first = await weights.publish(1)
    async with connected(weights) as channel:
        held = await hands.take(channel, first.version)
        assert (held.way, held.crossed, has(held)) == (WHOLE, SIZE, whole(1))
        second = await weights.publish_difference(first, 2)
        third = await weights.publish_difference(second, 3)
        held = await hands.take(channel, third.version)  # two at once
        assert (held.way, has(held)) == (DIFFERENCE, whole(3)) and 0 < held.crossed < SIZE / 10
        assert await hands.take(channel, third.version) is held, "applying one twice changes nothing"
        assert len(list(folder.iterdir())) <= 2
        back = await hands.take(channel, second.version)
        assert (back.way, has(back)) == (WHOLE, whole(2))
        other = await hands.take(channel, (await weights.publish(5, epoch=2)).version)
        assert (other.way, has(other)) == (WHOLE, whole(5))


async def test_what_leads_on_is_applied_to_the_version_before_in_place(weights: Weights, folder: pathlib.Path) -> None:
    hands, last = Hands(folder), await weights.publish(1)
    async with connected(weights) as channel:
        await hands.take(channel, last.version)
        for step in range(2, 8):
            last = await weights.publish_difference(last, step)
            if step == 4:
                continue  # skipped: two differences at once
            if step == 6:  # damaged behind our back: seen by its checksums, and cured
                (older,) = {*folder.iterdir()} - {hands.held.file if hands.held else folder}
                with older.open("r+b") as file:
                    file.write(b"x")
            held = await hands.take(channel, last.version)
            assert has(held) == whole(step) and held.way == (WHOLE if step == 6 else DIFFERENCE)
            assert (hands._older is None) == (step == 6)


async def test_a_version_that_was_mapped_is_led_on_from_by_itself_alone(
    weights: Weights, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(step: int) -> bytes:
        return bytes([step]) * 64 + b"x" * (SIZE - 64)

    monkeypatch.setattr(weights_testing, "whole", changed)
    hands, wrong = Hands(folder), hands_module._mismatches._value.get()
    async with connected(weights) as channel:
        first = await weights.publish(1)
        await hands.take(channel, first.version)
        second = await weights.publish_difference(first, 2)
        await hands.take(channel, second.version)
        hands._host = boot_id()
        third = await weights.publish_difference(second, 3)
        assert (await hands.take(channel, third.version)).way == MAPPED
        hands._host = None
        held = await hands.take(channel, (await weights.publish_difference(third, 4)).version)
        assert (held.way, has(held)) == (DIFFERENCE, changed(4))
    assert hands_module._mismatches._value.get() == wrong


@pytest.mark.parametrize("path", ["", "/nowhere/version.bin", "/dev/zero", __file__, "a pipe"])
async def test_what_cannot_be_mapped_is_fetched(folder: pathlib.Path, tmp_path: pathlib.Path, path: str) -> None:
    if path == "a pipe":  # which nobody writes to
        path = str(tmp_path / "pipe")
        os.mkfifo(path)

    class Elsewhere(WeightSync):
        async def GetManifest(self, request: Any, context: Any) -> pb.GetManifestResponse:
            answer = await super().GetManifest(request, context)
            answer.path = path
            return answer

    async with weight_sync(tmp_path / "store", Elsewhere) as weights, connected(weights) as channel:
        held = await Hands(folder, boot_id()).take(channel, (await weights.publish(1)).version)
        assert (held.way, has(held)) == (WHOLE, whole(1))


def damaged(data: bytes, how: int) -> bytes:
    """A difference that is none, or is of other versions."""
    match how % 4:
        case 0:
            return data[: how % len(data)]
        case 1:
            place = how % len(data)
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        case 2:
            return b""
        case _:
            return data + b"more"


class Lying(WeightSync):
    """Sends other differences than it was given."""

    how = 0

    async def FetchDifference(self, request: Any, context: Any) -> Any:
        async for message in super().FetchDifference(request, context):
            if message[0] >> 3 == pb.FetchDifferenceResponse.DATA_FIELD_NUMBER:
                sent = damaged(pb.FetchDifferenceResponse.FromString(message).data, self.how)
                yield frame(sent, field=pb.FetchDifferenceResponse.DATA_FIELD_NUMBER)
            else:
                yield message


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400))
def test_a_difference_that_makes_another_version_is_counted_and_cured_by_all_bytes(
    tmp_path_factory: pytest.TempPathFactory, how: int
) -> None:
    async def run() -> None:
        folder = tmp_path_factory.mktemp("lying")
        (folder / "hands").mkdir()
        hands = Hands(folder / "hands")
        async with weight_sync(folder / "store", Lying) as weights, connected(weights) as channel:
            weights.servicer.how = how  # type: ignore[attr-defined]
            first = await weights.publish(1)
            await hands.take(channel, first.version)
            before = hands_module._mismatches._value.get()
            second = await weights.publish_difference(first, 2)
            held = await hands.take(channel, second.version)
            assert (held.way, has(held)) == (WHOLE, whole(2))
            assert hands_module._mismatches._value.get() == before + 1

    asyncio.run(run())


async def test_a_store_that_was_started_again_still_leads_on(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    hands = Hands(folder)
    async with weight_sync(tmp_path / "store") as weights, connected(weights) as channel:
        first = await weights.publish(1)
        await hands.take(channel, first.version)
        second = await weights.publish_difference(first, 2)
    async with weight_sync(tmp_path / "store") as weights, connected(weights) as channel:
        held = await hands.take(channel, second.version)
        assert (held.way, has(held)) == (DIFFERENCE, whole(2))


async def test_what_fails_leaves_what_was_there(weights: Weights, folder: pathlib.Path) -> None:
    hands = Hands(folder)
    async with connected(weights) as channel:
        held = await hands.take(channel, (await weights.publish(1)).version)
        with pytest.raises(FetchFailed, match="cannot fetch version 9"):
            await hands.take(channel, PolicyVersion(epoch=1, step=9))
        assert hands.held is held and has(held) == whole(1)


async def test_another_version_than_was_asked_for_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    class Confused(WeightSync):
        async def GetManifest(self, request: Any, context: Any) -> pb.GetManifestResponse:
            request.version.step = 1
            return await super().GetManifest(request, context)

    async with weight_sync(tmp_path / "store", Confused) as weights, connected(weights) as channel:
        await weights.publish(1)
        with pytest.raises(FetchFailed, match="step 1 was sent where step 2 was asked for"):
            await Hands(folder).take(channel, (await weights.publish(2)).version)


async def test_a_version_has_the_digest_that_was_told(weights: Weights, folder: pathlib.Path) -> None:
    async with connected(weights) as channel:
        told = (await weights.publish(1)).version
        told.digest = bytes(32)
        with pytest.raises(FetchFailed, match="is that of another version than step 1 was told to be"):
            await Hands(folder).take(channel, told)
