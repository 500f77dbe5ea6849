"""Whom the coordinator asks: those it was told of, and the members of the run as they come and go."""

import asyncio
from collections.abc import Callable

import pytest

from penstock import rpc
from penstock.bus import Bus, RunNames
from penstock.membership import Member, MemberState, announcing, watching
from services.coordinator.state.peers import peers


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def member(kind: str, instance: str, address: str) -> Member:
    return Member(kind=kind, instance=instance, address=address, state=MemberState.MEMBER_STATE_READY)


async def test_members_are_asked_while_they_take_part_and_told_peers_always(bus: Bus, names: RunNames) -> None:
    async with (
        rpc.Server("generation-0") as server,
        watching(bus, names) as watcher,
        peers({"generation-9": "127.0.0.1:9"}, rpc.Security(), watcher) as found,
    ):
        await server.start()
        async with (
            announcing(bus, names, member("generation", "generation-0", server.address)),
            announcing(bus, names, member("dashboard", "dashboard", "127.0.0.1:9")),
        ):
            await until(lambda: [m.instance for m in found.members] == ["dashboard", "generation-0"])
            await until(lambda: "generation-0" in found.addresses)
            said = {each.service: bool(each.unreachable) for each in await found.waits()}
            assert said == {"generation-0": False, "generation-9": True}, "nobody asks the page what it waits for"
        await until(lambda: list(found.addresses) == ["generation-9"])


async def test_a_kind_is_what_counts_and_not_what_a_member_is_called(bus: Bus, names: RunNames) -> None:
    """Else a stranger called learner would be told to drain, and shown what only the learner may see."""
    async with (
        watching(bus, names) as watcher,
        peers({}, rpc.Security(), watcher) as found,
        announcing(bus, names, member("reward_model", "learner", "127.0.0.1:9")),
        announcing(bus, names, member("weight_sync", "store", "127.0.0.1:10")),
    ):
        await until(lambda: set(found.addresses) == {"reward_model-learner", "weight_sync-store"})
        assert found._named("weight_sync") == ["weight_sync-store"]
        with pytest.raises(rpc.RpcError, match="no learner takes part"):
            await found.drain_learner(finish=True)
