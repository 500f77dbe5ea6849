"""What it costs a receiver that a relay dies, hangs, lies or has not the version: a refetch, and a line in the log."""

import asyncio
import logging
import os
import pathlib
import signal
from typing import Any

import numpy as np
import pytest

from penstock import rpc
from penstock.fetching import Bulk, Source, relays
from penstock.fetching.source import SILENT_SECONDS
from penstock.membership import Member, MemberState, View, beside
from penstock.rpc import Security
from penstock.system.boot import boot_id
from penstock.tensors import Receiver, digest, make_manifest
from penstock.testing.freezing import freeze
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.relaying.following import Following
from services.weight_sync.relaying.relay import Relay
from services.weight_sync.relaying.relay_testing import SMALL, Shapes, Stand, Version, drawn, publish, taken
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES
from services.weight_sync.store import VersionStore

LARGE: Shapes = [("float32", 0), ("bfloat16", 24 << 20), ("float16", 1)]
"""More than the kernel holds of a connection."""


def passed_over(why: str) -> float:
    return float(relays._passed_over.labels(why)._value.get())


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_one_that_dies_or_hangs_in_mid_version_costs_a_refetch(
    run: Stand,
    chance: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
    bulk: bool,
) -> None:
    if not bulk:
        monkeypatch.setattr(Bulk, "beside", lambda *_: None)
    await run.relay("relay-a", "a")
    first, version = drawn(1, SMALL, chance), drawn(2, LARGE, chance)
    await publish(run.channel, first)
    before, take, struck = passed_over("fails"), Receiver.take, list[int]()
    async with run.relays() as seen:
        hands = run.hands("g0")
        await taken(run, seen, hands, first)
        await publish(run.channel, version)
        pid = run.children["relay-a"].pid

        def striking(self: Receiver, view: memoryview) -> None:
            take(self, view)
            if not struck and 0 < self.received < len(version.data):
                struck.append(self.received)
                freeze(pid) if how == "frozen" else os.kill(pid, signal.SIGKILL)

        monkeypatch.setattr(Receiver, "take", striking)
        with caplog.at_level(logging.WARNING):
            held = await taken(run, seen, hands, version)
        assert struck and held.relay == "", "it was in mid-version"
        assert passed_over("fails") == before + 1
        assert caplog.text.count("relay relay-a is passed over for version 2: it fails") == 1
        third = version.after(chance)
        await publish(run.channel, third, version)
        assert (await taken(run, seen, hands, third)).way == pb.PATH_DIFFERENCE, "what it has counts, whoever gave it"
        assert passed_over("fails") == before + 1, "it is left alone for a while"
    if how == "frozen":
        os.kill(pid, signal.SIGCONT)


async def test_one_that_hangs_is_left_within_seconds_and_asked_again_after_a_while(
    run: Stand, chance: np.random.Generator
) -> None:
    now = [0.0]
    await run.relay("relay-a", "a")
    pid = run.children["relay-a"].pid
    first = drawn(1, SMALL, chance)
    await publish(run.channel, first)
    async with run.relays(clock=lambda: now[0]) as seen:
        hands = run.hands("g0")
        freeze(pid)
        async with asyncio.timeout(SILENT_SECONDS + 5):
            assert (await taken(run, seen, hands, first)).relay == ""
        os.kill(pid, signal.SIGCONT)
        for version, later, expected in (
            (second := first.after(chance), 0.0, ""),
            (second.after(chance), relays.AGAIN_SECONDS, "relay-a"),
        ):
            now[0] += later
            await publish(run.channel, version)
            assert (await taken(run, seen, hands, version)).relay == expected


@pytest.mark.parametrize("way", [pb.PATH_BULK, pb.PATH_WHOLE, pb.PATH_MAPPED, pb.PATH_DIFFERENCE])
async def test_one_with_other_bytes_is_found_out_and_not_asked_for_that_version_again(
    run: Stand, chance: np.random.Generator, monkeypatch: pytest.MonkeyPatch, way: pb.Path
) -> None:
    await run.relay("relay-a", "a")
    first = drawn(1, [("float32", 5000)], chance)
    version = first.after(chance)
    host = boot_id() if way == pb.PATH_MAPPED else None
    if way == pb.PATH_WHOLE:
        monkeypatch.setattr(Bulk, "beside", lambda *_: None)
    await publish(run.channel, first)
    async with run.relays() as seen, run.relays(name="other") as other:
        hands = run.hands("g0", host)
        await taken(run, seen, hands, first)
        await publish(run.channel, version, first if way == pb.PATH_DIFFERENCE else None)
        await taken(run, other, run.hands("other"), version)  # the relay has it now
        (path,) = run.directory("relay-a").glob(
            "00000002-*.difference" if way == pb.PATH_DIFFERENCE else "00000002-*.bin"
        )
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        lies = passed_over("lies")
        assert (await taken(run, seen, hands, version)).relay == ""
        assert passed_over("lies") == lies + 1
        assert (await taken(run, seen, run.hands("anew", host), version)).relay == ""
        assert passed_over("lies") == lies + 1, "it is not asked for this version"
        third = version.after(chance)
        await publish(run.channel, third)
        assert (await taken(run, seen, hands, third)).relay == "relay-a", "and for the next it is"


class Lying(Relay):
    """Gives adapters twice their scale; honest: with the digest that the version had."""

    honest = True

    async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> pb.GetManifestResponse:
        answer = pb.GetManifestResponse.FromString((await super().GetManifest(request, context)).SerializeToString())
        answer.manifest.adapters.scale *= 2
        if not self.honest:
            answer.manifest.version.digest = digest(answer.manifest.tensors, answer.manifest.adapters)
        return answer


@pytest.mark.parametrize("honest", [True, False], ids=["damaged", "a liar"])
async def test_one_with_another_scale_of_adapters_is_found_out(
    run: Stand, chance: np.random.Generator, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, honest: bool
) -> None:
    data, base = chance.bytes(4000), chance.bytes(32)
    adapters = pb.Adapters(scale=0.5, base=base)
    version = Version(make_manifest(1, 1, [("a.lora_A.weight", "float32", [10, 100], data)], adapters=adapters), data)
    named = version.manifest.version
    await publish(run.channel, version)
    monkeypatch.setattr(Lying, "honest", honest)
    store, view = VersionStore(tmp_path / "liar", keep=2, follows=True), View()
    following = Following(store, Source(run.channel), "relay-a")
    async with rpc.Server("relay") as server, beside(following.run()):
        adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
        server.add(adder, Lying(store, None, following), raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
        await server.start()
        near = Member(kind="relay", instance="relay-a", zone="a", address=server.address)
        near.state, near.incarnation = MemberState.MEMBER_STATE_READY, 1
        view.entry("member.relay.relay-a", near, 1, 0.0)
        own, lies = Member(kind="generation", instance="g0", host="elsewhere", zone="a"), passed_over("lies")
        async with relays.Relays(view, own, Security()) as seen:
            hands = run.hands("g0")
            assert await seen.take(hands, named, lambda: base) is None and hands.held is None
            assert passed_over("lies") == lies + 1 and store.get(named) is not None
            held = await hands.take(run.channel, named, lambda: base)
            assert (held.manifest.adapters.scale, held.relay) == (0.5, "")


async def test_one_that_has_not_the_version_costs_nothing_but_the_question(
    run: Stand, chance: np.random.Generator
) -> None:
    """It has no room for it: its quota is that of a store."""
    await run.relay("relay-a", "a", "--staged-gib", "0.001")
    small, large = drawn(1, SMALL, chance), drawn(2, [("float32", 1 << 20)], chance)
    without = passed_over("has it not")
    async with run.relays() as seen:
        for version, expected in ((small, "relay-a"), (large, ""), (large, "")):
            if expected or version.manifest.version != (await run.listed()).served:
                await publish(run.channel, version)
            assert (await taken(run, seen, run.hands(f"of {expected}"), version)).relay == expected
        assert passed_over("has it not") == without + 1
    assert not list(run.directory("relay-a").glob("*.staging"))
