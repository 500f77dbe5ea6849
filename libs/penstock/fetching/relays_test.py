"""Who is asked before weight_sync, and in which order; and what is kept of whom."""

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import relays
from penstock.fetching.hands import Hands
from penstock.fetching.relays import Relays, near
from penstock.membership import Member, MemberState, View
from penstock.rpc import Security

READY = MemberState.MEMBER_STATE_READY


def member(kind: str, instance: str, host: str, zone: str, state: MemberState = READY) -> Member:
    return Member(kind=kind, instance=instance, host=host, zone=zone, state=state)


def view(*members: Member) -> View:
    made = View()
    for each in members:
        made.entry(f"member.{each.kind}.{each.instance}", each, 1, 0.0)
    return made


STORE = member("weight_sync", "weight_sync", "h0", "z0")


@pytest.mark.parametrize(
    ("host", "zone", "expected"),
    [("h1", "a", ["r1", "r2"]), ("h2", "a", ["r2", "r1"]), ("h3", "", ["r3"]), ("h9", "c", []), ("h9", "", [])],
)
def test_this_hosts_come_before_those_of_the_zone_and_nobody_elsewhere_is_asked(
    host: str, zone: str, expected: list[str]
) -> None:
    starting = member("relay", "r0", "h1", "a", MemberState.MEMBER_STATE_STARTING)
    relays = [member("relay", "r1", "h1", "a"), member("relay", "r2", "h2", "a"), member("relay", "r3", "h3", "b")]
    found = near(view(STORE, starting, *relays), member("generation", "g", host, zone))
    assert [m.instance for m in found] == expected


def test_on_weight_syncs_own_host_nothing_is_nearer() -> None:
    assert not near(view(STORE, member("relay", "r", "h0", "z0")), member("generation", "g", "h0", "z0"))


def test_receivers_share_out_the_relays_of_their_zone() -> None:
    relays = view(STORE, *(member("relay", f"r{i}", f"h{i}", "a") for i in range(1, 4)))
    first = {near(relays, member("generation", f"g{i}", "h9", "a"))[0].instance for i in range(40)}
    assert first == {"r1", "r2", "r3"}
    gone = view(STORE, member("relay", "r1", "h1", "a"), member("relay", "r2", "h2", "a"))
    for i in range(40):
        own = member("generation", f"g{i}", "h9", "a")
        before = [m.instance for m in near(relays, own)]
        assert before[0] == "r3" or near(gone, own)[0].instance == before[0], "and keep theirs"


async def test_of_a_life_that_is_over_nothing_is_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two relays of a zone, nobody behind either, which are started again fifty times, one of them at one address."""
    made, opened, now = View(), list[str](), [0.0]

    @asynccontextmanager
    async def counted(address: str, **more: Any) -> AsyncIterator[grpc.aio.Channel]:
        async with rpc.channel(address, **more) as channel:
            opened.append(address)
            try:
                yield channel
            finally:
                opened.remove(address)

    class Rpc:
        """As the module, and counts."""

        channel = staticmethod(counted)
        errors = rpc.errors

    monkeypatch.setattr(relays, "rpc", Rpc)
    monkeypatch.setattr("penstock.fetching.source.ANSWER_SECONDS", 0.01)
    own = member("generation", "g0", "h9", "a")
    async with Relays(made, own, Security(), lambda: now[0]) as seen:
        for life in range(1, 51):
            there = {"r1": "127.0.0.1:1", "r2": f"127.0.0.1:{life}"}
            for instance, address in there.items():
                relay = member("relay", instance, "h1", "a")
                relay.incarnation, relay.address = life, address
                made.entry(f"member.relay.{instance}", relay, life, 0.0)
            for step in (1, 2):
                assert await seen.take(Hands(tmp_path), PolicyVersion(epoch=1, step=step)) is None
                assert sorted(opened) == sorted(there.values()) and len(seen._lives) == 2
                now[0] += relays.AGAIN_SECONDS
        made.entry("member.relay.r2", None, 51, 0.0)
        assert await seen.take(Hands(tmp_path), PolicyVersion(epoch=1, step=3)) is None
        assert opened == ["127.0.0.1:1"]
    assert not opened
