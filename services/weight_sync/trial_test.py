"""Versions that are tried before they are served: who is told which, and what no engine is ever told."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.standing.canaries import Canaries
from services.weight_sync.standing.examining import wrong_with
from services.weight_sync.standing.lifecycle import Lifecycle
from services.weight_sync.store import VersionStore

PROMOTE, REJECT, ROLL_BACK = pb.DECISION_PROMOTE, pb.DECISION_REJECT, pb.DECISION_ROLL_BACK
READY, VERIFIED, CANARY = pb.VERSION_STATE_READY, pb.VERSION_STATE_VERIFIED, pb.VERSION_STATE_CANARY
RETIRED = pb.VERSION_STATE_RETIRED


def committed(*steps: int) -> Lifecycle:
    life = Lifecycle(tries=True)
    for step in steps:
        life.commit(step)
    return life


def test_where_versions_are_tried_one_is_on_trial_at_a_time_and_it_is_newer_than_what_is_served() -> None:
    life = committed(0, 1)
    assert (life.served(), life.trying()) == (0, 1)
    life.commit(2)
    life.commit(3)
    assert (life.served(), life.trying()) == (0, 1)
    life.decide(1, REJECT, "worse")
    assert (life.served(), life.trying(ceiling=2), life.trying()) == (0, 2, 2)
    life.decide(2, PROMOTE, "")
    assert (life.served(), life.trying()) == (2, 3)
    life.decide(2, ROLL_BACK, "")
    assert (life.served(), life.trying(), life.standing(3).state) == (2, None, VERIFIED)


def test_the_way_out_of_a_rollback_tries_what_was_on_trial_and_never_what_was_fled_from() -> None:
    life = committed(0, 1)
    life.trying()
    life.decide(1, PROMOTE, "")
    life.commit(2)
    life.trying()
    life.decide(2, PROMOTE, "")
    life.commit(3)
    assert (life.served(), life.trying()) == (2, 3)
    life.decide(1, ROLL_BACK, "worse")
    assert life.standing(2).reason == "taken back by a rollback to version 1"
    assert life.ended == {3: 1}, "its next trial is another one"
    again = Lifecycle.load(life.dump(), range(4), tries=True)
    for each in (life, again):
        each.decide(1, PROMOTE, "")
        assert (each.served(), each.trying(), each.ended) == (1, 3, {3: 1})
        each.decide(3, REJECT, "worse")
        assert (each.served(), each.trying()) == (1, None), "version 2 waits for a person"
        each.decide(2, PROMOTE, "")
        assert each.served() == 2


def test_what_is_wrong_with_a_version_keeps_it_from_its_trial() -> None:
    life = committed(0)
    life.commit(1, wrong="not finite")
    assert (life.trying(), life.standing(1).reason) == (None, "not finite")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([PROMOTE, REJECT, ROLL_BACK, None])), max_size=20))
def test_after_any_decisions_a_trial_goes_on_behind_a_restart(moves: list[tuple[int, Any]]) -> None:
    life = committed(*range(6))
    for step, decision in moves:
        life.trying(ceiling=step)
        if decision is not None and not (decision == REJECT and life.served() == step):
            life.decide(step, decision, "why")
        served, tried = life.served(), life.on_trial
        assert served is not None and (tried is None or (tried > served and not life.ready(tried)))
    again = Lifecycle.load(life.dump(), range(6), tries=True)
    assert (again.served(), again.on_trial, again.dump()) == (life.served(), life.on_trial, life.dump())
    off = Lifecycle.load(life.dump(), range(6), tries=False)
    assert off.on_trial is None and (life.on_trial is None or off.ready(life.on_trial))


def test_never_more_than_replicas_and_whoever_is_one_stays_one_while_it_watches() -> None:
    canaries = Canaries(2)
    for name in ("c", "b"):
        canaries.come(name)
    assert canaries.chosen() == ["b", "c"]
    canaries.come("a")
    assert not canaries.are("a")
    canaries.come("c")
    canaries.leave("c")
    assert canaries.are("c")
    canaries.leave("c")
    assert canaries.chosen() == ["b", "a"]
    assert not Canaries(0).are("a")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@given(at=st.integers(0, 999), negative=st.booleans(), data=st.data())
def test_one_value_that_is_not_finite_is_found_and_its_tensor_named(
    dtype: str, at: int, negative: bool, data: st.DataObject
) -> None:
    words = np.zeros(1000, np.uint32 if dtype == "float32" else np.uint16)
    words[:] = data.draw(st.integers(0, 255))
    exponent = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}[dtype]
    sign = 0x80000000 if dtype == "float32" else 0x8000
    good = make_manifest(1, 1, [("a", dtype, [1000], words.tobytes())])
    assert wrong_with(good, memoryview(words.tobytes())) == ""
    words[at] = exponent | data.draw(st.integers(0, 3)) | (sign if negative else 0)
    bad = make_manifest(1, 1, [("z", dtype, [0], b""), ("a", dtype, [1000], words.tobytes())])
    assert wrong_with(bad, memoryview(words.tobytes())) == "not finite: a has 1 values that are NaN or infinite"
    words[at] ^= 1
    assert (
        wrong_with(bad, memoryview(words.tobytes())) == f"corrupted: the checksum of a's {words.nbytes} bytes differs"
    )


def manifest(step: int, value: float = 1.0) -> tuple[pb.Manifest, bytes]:
    data = np.full(64, value + step, np.float32).tobytes()
    return make_manifest(1, step, [("a", "float32", [64], data)]), data


async def push(stub: Any, step: int, value: float = 1.0) -> PolicyVersion:
    made, data = manifest(step, value)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=made)))
    sent = iter([pb.PushTensorsRequest(version=made.version), pb.PushTensorsRequest(data=data)])
    await rpc.call(stub.PushTensors(sent))
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=made.version)))
    return made.version


@asynccontextmanager
async def serving(folder: pathlib.Path, canaries: int = 1, keep: int = 4) -> AsyncIterator[Any]:
    async with rpc.Server("weight_sync") as server:
        server.add(
            weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
            WeightSync(VersionStore(folder, keep=keep, tries=True), canaries),
            raw_requests=RAW_REQUESTS,
            raw_responses=RAW_RESPONSES,
        )
        await server.start()
        async with rpc.channel(server.address, default_seconds=10, stream_seconds=30) as channel:
            yield weights_pb2_grpc.WeightSyncServiceStub(channel)


@asynccontextmanager
async def watching(stub: Any, name: str, held: PolicyVersion | None = None) -> AsyncIterator["asyncio.Queue[int]"]:
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def listen() -> None:
        async for told in stub.WatchVersions(pb.WatchVersionsRequest(receiver=name, held=held)):
            heard.put_nowait(told.version.step)

    async with asyncio.timeout(30):
        listening = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def decide(stub: Any, step: int, decision: pb.Decision, verdict: bool = False) -> None:
    request = pb.DecideVersionRequest(step=step, decision=decision, reason="said", verdict=verdict)
    await rpc.call(stub.DecideVersion(request))


async def states(stub: Any) -> dict[int, pb.VersionState]:
    listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
    return {info.version.step: info.state for info in listed.versions}


async def test_a_version_on_trial_is_told_to_its_canary_alone_and_a_rejected_one_is_taken_back(
    tmp_path: pathlib.Path,
) -> None:
    async with serving(tmp_path) as stub:
        await push(stub, 0)
        async with watching(stub, "a") as first:
            assert await first.get() == 0
            async with watching(stub, "b") as second:
                assert await second.get() == 0
                await push(stub, 1)
                await push(stub, 2)
                assert await first.get() == 1
                assert await states(stub) == {0: READY, 1: CANARY, 2: VERIFIED}
                await decide(stub, 1, REJECT)
                assert await first.get() == 2
                await decide(stub, 2, PROMOTE)
                assert await second.get() == 2
                await push(stub, 3)
                assert await first.get() == 3
                await decide(stub, 3, REJECT)
                assert await first.get() == 2 and second.empty()


async def test_a_verdict_decides_of_nothing_once_a_person_has(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path) as stub, watching(stub, "a") as heard:
        for step in (0, 1):
            await push(stub, step)
            assert await heard.get() == step
        await decide(stub, 0, ROLL_BACK)
        assert await heard.get() == 0
        for verdict in (PROMOTE, REJECT):
            with pytest.raises(rpc.errors.FailedPrecondition, match="version 1 is not on trial any more"):
                await decide(stub, 1, verdict, verdict=True)
        assert await states(stub) == {0: READY, 1: VERIFIED}
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert {info.version.step: info.ended_trials for info in listed.versions} == {0: 0, 1: 1}
        await decide(stub, 0, PROMOTE)
        assert await heard.get() == 1
        await decide(stub, 1, PROMOTE, verdict=True)
        assert await states(stub) == {0: READY, 1: READY}


async def test_a_receiver_is_told_whether_what_it_has_must_not_be_used_any_more(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path) as stub:
        await push(stub, 0)
        told = stub.WatchVersions(pb.WatchVersionsRequest(receiver="a"))
        answers = [await told.read()]
        for step in (1, 2):
            await push(stub, step)
        answers.append(await told.read())
        await decide(stub, 1, REJECT)
        answers.append(await told.read())
        await decide(stub, 2, PROMOTE)
        await push(stub, 3)
        answers.append(await told.read())
        assert [(each.version.step, each.taken_back) for each in answers] == [
            (0, False), (1, False), (2, True), (3, False)
        ]  # fmt: skip
        told.cancel()


async def test_where_the_canary_goes_another_takes_its_place(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path) as stub:
        await push(stub, 0)
        async with watching(stub, "b") as second:
            assert await second.get() == 0
            await push(stub, 1)
            assert await second.get() == 1
        async with watching(stub, "c") as third:
            while await third.get() != 1:
                continue
            listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
            assert {r.name: r.canary for r in listed.receivers} == {"b": False, "c": True}


async def test_a_trial_goes_on_behind_a_restart_and_what_was_rejected_stays_so(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path) as stub:
        await push(stub, 0)
        await push(stub, 1, value=float("nan"))
        held = await push(stub, 2)
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        reasons = {info.version.step: info.reason for info in listed.versions}
        assert reasons[1] == "not finite: a has 64 values that are NaN or infinite"
    async with serving(tmp_path) as stub, watching(stub, "a", held=held) as heard:
        await push(stub, 3)
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert [(r.name, r.version == held, r.canary) for r in listed.receivers] == [("a", True, True)]
        assert await states(stub) == {0: READY, 1: pb.VERSION_STATE_REJECTED, 2: CANARY, 3: VERIFIED}
        await decide(stub, 2, REJECT)
        assert await heard.get() == 3


async def test_a_trial_that_began_is_over_before_another_begins_over_restarts_too(tmp_path: pathlib.Path) -> None:
    """Though newer ones wait by then, more than are kept, and nobody watches yet."""
    async with serving(tmp_path, keep=2) as stub, watching(stub, "a") as heard:
        for step in (0, 1):
            await push(stub, step)
            assert await heard.get() == step
        for step in (2, 3, 4):
            await push(stub, step)
    async with serving(tmp_path, keep=2) as stub:
        assert await states(stub) == {0: READY, 1: CANARY, 3: VERIFIED, 4: VERIFIED}
        async with watching(stub, "b") as heard:
            assert await heard.get() == 1
            await decide(stub, 1, PROMOTE, verdict=True)
            assert await heard.get() == 4
    async with serving(tmp_path, keep=2) as stub:
        assert await states(stub) == {0: RETIRED, 1: READY, 3: VERIFIED, 4: CANARY}
        await decide(stub, 4, REJECT, verdict=True)
    async with serving(tmp_path, keep=2) as stub, watching(stub, "b") as heard:
        assert await heard.get() == 3


async def test_a_trial_that_the_disk_does_not_take_begins_once_it_does(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as stub, watching(stub, "a") as heard:
        await push(stub, 0)
        assert await heard.get() == 0
        with monkeypatch.context() as patched:
            patched.setattr("services.weight_sync.standing.decisions.os.fsync", no_room)
            await push(stub, 1)
            async with watching(stub, "b") as second:
                assert await second.get() == 0
            assert await states(stub) == {0: READY, 1: VERIFIED} and heard.empty()
        await push(stub, 2)
        assert await heard.get() == 2


def no_room(*args: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_trial_ends_where_a_newer_version_is_promoted() -> None:
    life = committed(0, 1)
    assert life.trying() == 1
    life.commit(2)
    life.decide(2, PROMOTE, "")
    assert (life.served(), life.trying(), life.standing(1).state, life.ended) == (2, None, VERIFIED, {1: 1})


async def test_bytes_that_changed_on_the_disk_before_the_commit_are_rejected(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path) as stub:
        await push(stub, 0)
        made, data = manifest(1)
        await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=made)))
        sent = iter([pb.PushTensorsRequest(version=made.version), pb.PushTensorsRequest(data=data)])
        await rpc.call(stub.PushTensors(sent))
        (staged,) = tmp_path.glob("*.staging")
        staged.write_bytes(b"\1" + data[1:])
        await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=made.version)))
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert listed.versions[0].reason == "corrupted: the checksum of a's 256 bytes differs"
        assert listed.served.step == 0


def test_what_waits_for_its_trial_is_known_while_an_older_one_is_tried_and_held_back() -> None:
    life = Lifecycle(tries=True)
    for step in range(8, 15):
        life.commit(step)
        assert life.trying(10) in (None, 9)
    assert (life.served(), life.on_trial, life.waiting(10), life.waiting()) == (8, 9, 10, 14)
    life.decide(9, pb.DECISION_PROMOTE, "")
    assert life.trying(10) == 10
