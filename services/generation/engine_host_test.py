"""One engine kept alive and at the newest version, against a real weight_sync server. The engine is a fake."""

import asyncio
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock.common.v1.common_pb2 import SamplingParams
from penstock.fetching import Hands, Relays
from penstock.generation.v1.generation_pb2 import GetEngineResponse
from penstock.membership import Member, MemberState, View
from penstock.rpc import Security
from penstock.telemetry import waits
from penstock.tensors import base_model
from penstock.tiny_model import make_model
from penstock.weights.v1 import weights_pb2 as pb
from services.generation import engine_host as module
from services.generation.engine import EngineDied, EngineSettings
from services.generation.engine_host import EngineHost
from services.generation.fake_engine_testing import Factory
from services.generation.gate import PinMissed
from services.generation.weights_testing import Weights, connected, relayed, weight_sync, whole

State = GetEngineResponse.State
SETTINGS = EngineSettings("model")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEALTH_SECONDS", 0.02)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)


@pytest_asyncio.fixture
async def weights(tmp_path: pathlib.Path) -> AsyncIterator[Weights]:
    async with weight_sync(tmp_path / "store") as running:
        yield running


@contextlib.asynccontextmanager
async def hosting(weights: Weights, factory: Factory) -> AsyncIterator[EngineHost]:
    """A running host."""
    host = EngineHost(SETTINGS, "g0", start=factory)
    async with connected(weights) as channel, running(host, channel):
        yield host
    assert all(engine.stopped for engine in factory.engines)


@contextlib.asynccontextmanager
async def running(host: EngineHost, channel: grpc.aio.Channel, relays: Relays | None = None) -> AsyncIterator[None]:
    """While it follows versions; fails if it ends by itself."""
    task = asyncio.create_task(host.run(channel, relays=relays))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """The host announces to nobody; its state is looked at."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def at(host: EngineHost, step: int) -> Callable[[], bool]:
    return lambda: host.state == State.STATE_READY and host.version.step == step


async def draw(host: EngineHost, n: int, *, min_step: int = 0, pinned: int | None = None) -> list[str]:
    """Draws n tokens through the gate; the labels of their versions."""
    labels = []
    async with host.gate.passing(min_step, pinned, within=20):
        async for chunk in host.generate("r", [1], SamplingParams(max_tokens=n)):
            labels += [name for _, name in chunk.spans]
    return labels


async def test_an_engine_starts_at_version_0_and_follows(weights: Weights) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        await until(at(host, 0))
        assert await draw(host, 2) == ["0.0", "0.0"]
        for step in (1, 2):
            await weights.publish(step)
            await until(at(host, step))
        assert factory.engines[0].updates == [(1, whole(1)), (2, whole(2))]
        assert await draw(host, 2, min_step=2) == ["1.2", "1.2"]
        assert (host.engine_starts, host.tokens_generated) == (1, 4)
        await until_reported(weights, 2)


async def test_an_engine_goes_back_with_a_rollback_and_is_there_within_seconds(weights: Weights) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        for step in (1, 2):
            await weights.publish(step)
            await until(at(host, step))
        began = time.monotonic()
        await weights.decide(2, pb.DECISION_REJECT)
        await until(at(host, 1))
        assert time.monotonic() - began < 5.0, "versions.md asks for it"
        assert await draw(host, 1) == ["1.1"] and host.engine_starts == 1
        await weights.publish(3)
        await until(at(host, 3))
        assert [step for step, _ in factory.engines[0].updates] == [1, 2, 1, 3]
        assert all(data == whole(step) for step, data in factory.engines[0].updates)
        await until_reported(weights, 3)
        assert (await weights.receivers())["g0"].path == pb.PATH_MAPPED


async def test_one_that_starts_without_weights_serves_nothing_before_it_has_fetched_a_version(weights: Weights) -> None:
    factory = Factory()
    host = EngineHost(dataclasses.replace(SETTINGS, weights=False), "g0", start=factory)
    async with connected(weights) as channel, running(host, channel):
        await until(lambda: bool(factory.engines))
        waiting = asyncio.create_task(draw(host, 1))
        await asyncio.sleep(0.1)  # long enough for one that has weights
        assert not waiting.done() and host.state == State.STATE_STARTING
        await weights.publish(0)
        assert await waiting == ["1.0"]
        factory.engines[0].alive = False  # the next one has none either, and what it fetched is known
        await until(lambda: len(factory.engines) == 2 and at(host, 0)())
        assert await draw(host, 1) == ["1.0"]


async def until_reported(weights: Weights, step: int) -> None:
    async with asyncio.timeout(20):
        while (receivers := await weights.receivers())["g0"].version.step != step:
            await asyncio.sleep(0.01)
    assert receivers["g0"].error == ""


async def test_a_version_that_is_not_wanted_any_more_once_it_is_there_is_never_applied(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been rejected while it was fetched; and weight_sync is told what the engine is about to have."""
    factory, take = Factory(), Hands.take
    fetched, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: Hands, channel: Any, target: Any, base: Any) -> Any:
        held = await take(self, channel, target, base)
        if target.step == 2 and not fetched.is_set():
            fetched.set()
            await go_on.wait()
        return held

    monkeypatch.setattr(Hands, "take", slow)
    async with hosting(weights, factory) as host:
        await weights.publish(1)
        await until(at(host, 1))
        await weights.publish(2)
        await fetched.wait()
        assert host._watching().held.step == 2
        await weights.decide(2, pb.DECISION_REJECT)
        await until(lambda: host._target is not None and host._target.step == 1)
        go_on.set()
        await weights.publish(3)
        await until(at(host, 3))
    assert [step for step, _ in factory.engines[0].updates] == [1, 3]


async def test_an_engine_that_starts_late_serves_nothing_before_the_newest_version(weights: Weights) -> None:
    await weights.publish(3)
    factory = Factory()
    factory.may_start.clear()
    async with hosting(weights, factory) as host:
        drawing = asyncio.create_task(draw(host, 1))
        await until(lambda: host._target is not None)
        factory.may_start.set()
        assert await drawing == ["1.3"]


async def test_adapters_on_another_model_are_never_applied_and_the_receiver_says_so(
    weights: Weights, tmp_path: pathlib.Path
) -> None:
    model = tmp_path / "model"
    make_model(model, hidden=32, layers=1)
    factory = Factory()
    host = EngineHost(EngineSettings(str(model)), "g0", start=factory)
    async with connected(weights) as channel, running(host, channel):
        await until(at(host, 0))
        await weights.publish(1, base=bytes(32))
        async with asyncio.timeout(20):
            while "adapters on another model" not in (await weights.receivers())["g0"].error:
                await asyncio.sleep(0.01)
        assert host.version.step == 0 and not factory.engines[0].updates
        await weights.publish(2, base=base_model(model))
        await until(at(host, 2))
        await until_reported(weights, 2)


async def test_versions_come_from_the_relay_that_is_near_and_weight_sync_is_told_so(
    weights: Weights, tmp_path: pathlib.Path
) -> None:
    factory, view = Factory(), View()
    own = Member(kind="generation", instance="g0", host="elsewhere", zone="a")
    async with (
        relayed(weights, tmp_path / "relay") as address,
        connected(weights) as channel,
        Relays(view, own, Security()) as relays,
        running(host := EngineHost(SETTINGS, "g0", start=factory), channel, relays),
    ):
        ready = MemberState.MEMBER_STATE_READY
        relay = Member(kind="relay", instance="relay-a", zone="a", address=address, state=ready)
        for step, said in ((1, ""), (2, "relay-a")):
            if said:
                view.entry("member.relay.relay-a", relay, 1, 0.0)
            await weights.publish(step)
            await until(at(host, step))
            await until_reported(weights, step)
            assert (await weights.receivers())["g0"].relay == said
        assert factory.engines[0].updates == [(1, whole(1)), (2, whole(2))]


async def test_adapters_for_an_engine_without_weights_are_refused_in_a_sentence(
    weights: Weights, tmp_path: pathlib.Path
) -> None:
    factory = Factory()
    settings = EngineSettings(str(tmp_path), weights=False)
    async with connected(weights) as channel, running(EngineHost(settings, "g0", start=factory), channel):
        await weights.publish(1, base=bytes(32))
        async with asyncio.timeout(20):
            while not (error := (await weights.receivers()).get("g0", pb.Receiver()).error):
                await asyncio.sleep(0.01)
    assert error.startswith(
        f"the run publishes adapters alone, and {tmp_path} has no weights that they could be merged"
    )


async def test_one_that_goes_on_from_a_rejected_version_waits_for_none_that_is_pinned_to_it(weights: Weights) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        for step in (1, 2):
            await weights.publish(step)
            await until(at(host, step))
        engine = factory.engines[0]
        engine.valve.clear()
        pinned, free = asyncio.create_task(draw(host, 5, pinned=2)), asyncio.create_task(draw(host, 1))
        await until(lambda: engine.requests == 2)
        weights.store.decide(2, pb.DECISION_REJECT, "worse")  # announced with the next, as of a canary
        await weights.publish(3)
        await until(at(host, 3))
        with pytest.raises(PinMissed, match="version 2 was taken back"):
            await pinned
        engine.valve.set()
        assert await free == ["1.3"]


async def test_one_that_goes_on_from_a_version_that_was_promoted_again_waits_for_what_is_pinned_to_it(
    weights: Weights,
) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        for step in (1, 2):
            await weights.publish(step)
            await until(at(host, step))
        await weights.decide(2, pb.DECISION_REJECT)
        await until(at(host, 1))
        await weights.decide(2, pb.DECISION_PROMOTE)
        await until(at(host, 2))
        engine = factory.engines[0]
        engine.valve.clear()
        pinned = asyncio.create_task(draw(host, 3, pinned=2))
        await until(lambda: engine.requests == 1)
        await weights.publish(3)
        await until(lambda: any(wait.what == "pinned requests" for wait in waits.snapshot()))
        assert await draw_while(engine.valve, host) == ["1.2"]
        assert await pinned == ["1.2"] * 3
        await until(at(host, 3))


async def test_a_dead_engine_is_started_again_at_the_newest_version(weights: Weights) -> None:
    await weights.publish(1)
    factory = Factory()
    async with hosting(weights, factory) as host:
        await until(at(host, 1))
        first = factory.engines[0]
        first.valve.clear()
        drawing = asyncio.create_task(draw(host, 5))
        await until(lambda: first.requests == 1)
        first.alive = False
        first.valve.set()
        with pytest.raises(EngineDied):
            await drawing
        await until(lambda: host.engine_starts == 2 and at(host, 1)())
        assert first.stopped and factory.engines[1].updates == [(1, whole(1))]
        assert await draw(host, 1) == ["1.1"]


async def test_requests_only_ever_run_on_a_version_that_was_applied_completely(weights: Weights) -> None:
    """An update fails halfway: that engine draws not one more token, the next one holds the version."""
    factory = Factory()
    factory.next_update_error = RuntimeError("the model did not take 3 tensors")
    async with hosting(weights, factory) as host:
        await until(at(host, 0))
        broken = factory.engines[0]
        broken.swap_may_end.clear()
        await weights.publish(1)
        await asyncio.wait_for(broken.swapping.wait(), 10)
        assert host.state == State.STATE_UPDATING
        waiting = asyncio.create_task(draw(host, 1))
        await asyncio.sleep(0)
        assert broken.requests == 0
        broken.swap_may_end.set()
        assert await waiting == ["1.1"]
        assert host.engine_starts == 2 and broken.stopped and broken.requests == 0
        await until_reported(weights, 1)


async def test_a_failed_update_is_reported(weights: Weights) -> None:
    factory = Factory()
    factory.next_update_error = RuntimeError("no")
    async with hosting(weights, factory) as host:
        await until(at(host, 0))
        factory.may_start.clear()  # so that the next engine does not cover the report
        await weights.publish(1)
        async with asyncio.timeout(20):
            while not (error := (await weights.receivers())["g0"].error):
                await asyncio.sleep(0.01)
        assert error == "RuntimeError: no" and host.state != State.STATE_READY
        factory.may_start.set()
        await until(at(host, 1))


async def test_requests_in_flight_go_on_over_an_update(weights: Weights) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        await until(at(host, 0))
        engine = factory.engines[0]
        labels: list[str] = []
        async with host.gate.passing(0, None, within=20):
            async for chunk in host.generate("r", [1], SamplingParams(max_tokens=4)):
                labels += [name for _, name in chunk.spans]
                if len(labels) == 2:
                    engine.valve.clear()
                    await weights.publish(1)
                    await until(at(host, 1))
                    engine.valve.set()
        assert labels == ["0.0", "0.0", "1.1", "1.1"]


async def test_a_pinned_request_blocks_updates_until_it_ends(weights: Weights) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        await until(at(host, 0))
        engine = factory.engines[0]
        engine.valve.clear()
        pinned = asyncio.create_task(draw(host, 3, pinned=0))
        await until(lambda: engine.requests == 1)
        await weights.publish(1)
        await until(lambda: host._target is not None)
        assert await draw_while(engine.valve, host) == ["0.0"]
        assert not engine.swapping.is_set() and host.version.step == 0
        assert await pinned == ["0.0"] * 3
        await until(at(host, 1))
        with pytest.raises(PinMissed):
            await draw(host, 1, pinned=0)


async def draw_while(valve: asyncio.Event, host: EngineHost) -> list[str]:
    """A request beside the pinned one; both move once the valve is open."""
    beside = asyncio.create_task(draw(host, 1))
    await asyncio.sleep(0)
    valve.set()
    return await beside


async def test_an_absent_weight_sync_is_waited_for_and_the_engine_serves_on(tmp_path: pathlib.Path) -> None:
    factory = Factory()
    async with weight_sync(tmp_path / "store") as first:
        await first.publish(1)
        address = first.address
    lost = Weights(first.store, first.servicer, address)
    async with hosting(lost, factory) as host:
        await until(at(host, 0))
        assert await draw(host, 1) == ["0.0"]
        async with weight_sync(tmp_path / "store", listen=address):
            await until(at(host, 1))
            await until_reported(lost, 1)


async def test_versions_of_a_restarted_learner_are_followed(weights: Weights) -> None:
    factory = Factory()
    async with hosting(weights, factory) as host:
        await weights.publish(1, epoch=1)
        await until(at(host, 1))
        await weights.publish(2, epoch=2)
        await until(at(host, 2))
        assert (host.version.epoch, await draw(host, 1)) == (2, ["2.2"])
