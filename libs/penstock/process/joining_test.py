"""How a process takes part in a run: what it says of itself, how it drains, and how it ends with the run."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from penstock.bus import Bucket, Bus, EmbeddedServer, RunNames
from penstock.membership import Member, MemberState, NameTaken, Watcher, announcing, watching
from penstock.process import PeerMoved, Process, Unreachable, advertised, check_reachable, flags, joined, run
from penstock.process.joining import DOMAIN, OtherRelease, check_release
from penstock.rpc import Security, Server
from penstock.system import exits

READY, DRAINING = MemberState.MEMBER_STATE_READY, MemberState.MEMBER_STATE_DRAINING


def parsed(nats: EmbeddedServer, *words: str) -> argparse.Namespace:
    given = ["--nats", nats.url, "--run", "r1", "--name", "weight_sync", "--zone", "a", "--drain-seconds", "1"]
    return flags("weight_sync", "tests").parse_args([*given, *words])


@asynccontextmanager
async def process(args: argparse.Namespace) -> AsyncIterator[Process]:
    async with (
        Server(args.name, args.listen, drain_seconds=0.05) as server,
        joined(args, args.run, Security()) as part,
    ):
        yield Process(args, server, Security(), part)


async def state(watcher: Watcher, wanted: Callable[[Member], bool]) -> Member:
    """The one member, once it is as wanted."""
    async with asyncio.timeout(10):
        await watcher.until(lambda view: any(map(wanted, view.members())), "a member", on="test")
    (member,) = watcher.view.members()
    return member


async def test_a_process_says_where_it_is_when_it_is_ready_and_that_it_drains(
    nats: EmbeddedServer, bus: Bus, names: RunNames
) -> None:
    may, worked = asyncio.Event(), list[str]()

    async def ready() -> None:
        await may.wait()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            worked.append(MemberState.Name(running.joined.member.state))

    async with watching(bus, names) as watcher, process(parsed(nats)) as running:
        serving = asyncio.create_task(running.serving(work(), ready=ready, gives_back=True))
        starting = await state(watcher, lambda m: m.incarnation > 0)
        assert (starting.kind, starting.zone, starting.address) == ("weight_sync", "a", running.server.address)
        assert starting.state == MemberState.MEMBER_STATE_STARTING
        may.set()
        await state(watcher, lambda m: m.state == READY)
        running.server.stop()
        await state(watcher, lambda m: m.state == DRAINING)
        await serving
        assert worked == ["MEMBER_STATE_DRAINING"], "work is given back when draining has begun"
    async with watching(bus, names) as watcher:
        assert not watcher.view.members()


@pytest.mark.parametrize(("word", "code"), [("done", exits.DONE), ("stopped", exits.DONE), ("failed", exits.FAILED)])
async def test_a_process_ends_by_itself_when_its_run_is_over(
    nats: EmbeddedServer, bus: Bus, names: RunNames, word: str, code: int
) -> None:
    async with process(parsed(nats, "--ends-with-run")) as running:
        serving = asyncio.create_task(running.serving())
        await Bucket(bus, names).put(names.over_key, word.encode())
        await asyncio.wait_for(serving, 10)
        assert running.code == code


async def test_a_second_process_of_one_name_ends_the_first(nats: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    async with process(parsed(nats)) as first, process(parsed(nats)) as second:
        serving = asyncio.create_task(first.serving())
        async with watching(bus, names) as watcher:
            await state(watcher, lambda m: m.state == READY)
        await second.start()
        assert first.joined.announcer is not None
        with pytest.raises(NameTaken, match="Give each its own --name"):
            await first.joined.announcer.say(READY)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_peer_that_is_elsewhere_now_is_noticed_and_one_that_starts_again_is_not(
    nats: EmbeddedServer, bus: Bus, names: RunNames
) -> None:
    def peer(address: str) -> Member:
        return Member(kind="learner", instance="learner", address=address, state=READY)

    async with process(parsed(nats)) as running:
        async with announcing(bus, names, peer("here:1")):
            address = await running.joined.address_of("learner")
            following = asyncio.create_task(running.joined.until_moved("learner", address))
        async with announcing(bus, names, peer("here:1")):
            assert await running.joined.address_of("learner") == "here:1" and not following.done()
        async with announcing(bus, names, peer("there:1")):
            with pytest.raises(PeerMoved, match="learner has moved from here:1 to there:1"):
                await asyncio.wait_for(following, 10)


async def test_an_address_where_nobody_answers_is_not_told(
    nats: EmbeddedServer, names: RunNames, unused_tcp_port: int
) -> None:
    async with process(parsed(nats, "--advertise", f"127.0.0.1:{unused_tcp_port}")) as running:
        with pytest.raises(Unreachable, match=f"--advertise 127.0.0.1:{unused_tcp_port}: nobody answers there"):
            await running.start()
    with pytest.raises(Unreachable, match="--advertise nowhere: "):
        check_reachable("nowhere")


def test_what_is_advertised_is_where_it_listens_or_the_way_to_nats() -> None:
    assert advertised("10.1.2.3:70", "nats://127.0.0.1:4222") == "10.1.2.3:70"
    for anywhere in ("0.0.0.0:70", "[::]:70"):
        assert advertised(anywhere, "nats://127.0.0.1:4222,nats://b:4222") == "127.0.0.1:70"


def test_a_run_without_its_name_is_refused() -> None:
    async def never(process: Process, args: argparse.Namespace) -> None:
        raise AssertionError

    args = flags("weight_sync", "tests").parse_args(["--nats", "nats://127.0.0.1:1"])
    assert run(args, never) == exits.BAD_INPUT


@pytest.mark.parametrize(
    ("own", "there"), [("0.1.0", "0.1.9"), ("0.1.0", "0.2.0"), ("0.3.1", "0.2.0"), ("0.1.0", ""), ("0.1.0", "?")]
)
def test_neighbouring_releases_take_part_together(own: str, there: str) -> None:
    check_release([Member(instance="coordinator", version=there)], own)


@pytest.mark.parametrize(("own", "there"), [("0.1.0", "0.3.0"), ("0.4.0", "0.2.7"), ("1.0.0", "0.1.0")])
def test_a_release_that_is_too_far_away_is_refused_by_name(own: str, there: str) -> None:
    with pytest.raises(OtherRelease, match=f"this is Penstock {own}, and coordinator of the run is {there}"):
        check_release([Member(instance="coordinator", version=there)], own)


async def test_a_process_of_another_release_does_not_start(nats: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    member = Member(kind="coordinator", instance="coordinator", address="127.0.0.1:1", version="7.0.0")
    async with announcing(bus, names, member):
        code = await asyncio.to_thread(run, parsed(nats), _never)
    assert code == exits.BAD_INPUT


async def _never(_: Process, __: argparse.Namespace) -> None:
    raise AssertionError("it must not begin")


def test_who_is_known_by_a_name_says_his_address_with_dashes_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advertised("0.0.0.0:7000", "nats://127.0.0.1:4222") == "127.0.0.1:7000"
    monkeypatch.setenv(DOMAIN, "mine.pod.cluster.local")
    assert advertised("0.0.0.0:7000", "nats://127.0.0.1:4222") == "127-0-0-1.mine.pod.cluster.local:7000"
    assert advertised("[::]:7000", "nats://[::1]:4222") == "--1.mine.pod.cluster.local:7000"
    assert advertised("127.0.0.1:7000", "nats://127.0.0.1:4222") == "127.0.0.1:7000", "where it listens is said already"
