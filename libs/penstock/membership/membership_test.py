"""Announcing and watching over a real nats-server: who comes, goes, falls silent, or takes another's name."""

import asyncio
import time
from dataclasses import dataclass

import pytest

from penstock.bus import Bucket, Bus, EmbeddedServer, Heard, RunNames, connect
from penstock.membership import Member, MemberState, NameTaken, Watcher, announcing, beside, watching

STARTING, READY = MemberState.MEMBER_STATE_STARTING, MemberState.MEMBER_STATE_READY
SOON = 1.0
"""Seconds within which a change is known, by the design."""


@dataclass
class Clock:
    """A clock that a test moves on."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def member(instance: str = "generation-0", state: MemberState = STARTING) -> Member:
    return Member(kind="generation", instance=instance, state=state, address="10.0.0.1:7000")


async def until(watcher: Watcher, *instances: str, within: float = 10.0) -> float:
    """Waits until just these are READY; the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        await watcher.until(
            lambda view: [m.instance for m in view.ready("generation") if m.incarnation] == list(instances),
            "members",
            on="test",
        )
    return time.monotonic() - began


async def test_a_member_is_in_use_within_a_second_after_ready_and_out_of_use_when_it_leaves(
    bus: Bus, names: RunNames
) -> None:
    async with watching(bus, names) as watcher:
        async with announcing(bus, names, member()) as announcer:
            await asyncio.wait_for(watcher.changed(0), 5)
            assert not watcher.view.ready("generation") and len(watcher.view.members()) == 1
            await announcer.say(READY)
            assert await until(watcher, "generation-0") < SOON
            async with watching(bus, names) as late:
                (found,) = late.view.ready("generation")
                assert found.address == "10.0.0.1:7000" and found.incarnation > 0
        assert await until(watcher) < SOON


async def test_a_member_that_dies_without_a_word_is_out_of_use_in_time(bus: Bus, names: RunNames) -> None:
    """By the reader's clock, and from the bucket by the server's."""
    clock = Clock()
    async with watching(bus, names, gone_seconds=15, clock=clock) as watcher:
        task = asyncio.create_task(_announce_and_hang(bus, names))
        await until(watcher, "generation-0")
        clock.now += 14.5
        await asyncio.sleep(0.6)  # more than one look of the watcher: time passing is what is tested
        assert watcher.view.ready("generation")
        clock.now += 0.5
        assert await until(watcher) < SOON
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        while await Bucket(bus, names).get(names.member_key("generation", "generation-0")) is not None:
            await asyncio.sleep(0.1)  # the server announces no expiry


async def _announce_and_hang(bus: Bus, names: RunNames) -> None:
    async with announcing(bus, names, member(state=READY), gone_seconds=1):
        await asyncio.Event().wait()


async def test_of_two_processes_of_one_name_the_later_stays(bus: Bus, names: RunNames) -> None:
    async with watching(bus, names) as watcher, announcing(bus, names, member(state=READY)) as first:
        second = member(state=READY)
        second.address = "10.0.0.2:7000"
        async with announcing(bus, names, second) as later:
            with pytest.raises(NameTaken, match=r"takes part as 'generation-0' \(generation\)"):
                await first.say(READY)
            await later.say(READY)
            await until(watcher, "generation-0")
            async with asyncio.timeout(5):
                while watcher.view.ready("generation")[0].address != "10.0.0.2:7000":
                    await watcher.changed(watcher.changes)
            assert later.member.incarnation > first.member.incarnation


async def test_one_that_cannot_announce_itself_knows_that_it_is_written_off(
    nats: EmbeddedServer, bus: Bus, names: RunNames
) -> None:
    clock, told = Clock(), list[bool]()
    async with connect(nats.url, name="member", attempt_seconds=0.2) as own:
        async with announcing(
            own, names, member(state=READY), refresh_seconds=0.05, gone_seconds=15, clock=clock
        ) as announcer:
            announcer.when_written_off(told.append)
            going_on = asyncio.create_task(announcer.run())
            await nats.kill()
            clock.now += 15
            async with asyncio.timeout(10):
                while not announcer.written_off:
                    await asyncio.sleep(0.02)
            await nats.start()
            async with asyncio.timeout(10):
                while announcer.written_off:
                    await asyncio.sleep(0.02)
            assert told == [True, False]
            going_on.cancel()
            await asyncio.gather(going_on, return_exceptions=True)


async def test_one_whose_announcement_ran_out_begins_anew(bus: Bus, names: RunNames) -> None:
    async with announcing(bus, names, member(state=READY), gone_seconds=1) as announcer:
        before = announcer.member.incarnation
        bucket, key = Bucket(bus, names), names.member_key("generation", "generation-0")
        async with asyncio.timeout(10):
            while await bucket.get(key) is not None:
                await asyncio.sleep(0.1)
        await announcer.say(READY)
        assert announcer.member.incarnation > before and await bucket.get(key) is not None


async def test_the_end_of_a_run_is_heard_and_known_to_whoever_comes_later(bus: Bus, names: RunNames) -> None:
    async with watching(bus, names) as watcher:
        assert watcher.over == ""
        seen = watcher.changes
        await Bucket(bus, names).put(names.over_key, b"done")
        await asyncio.wait_for(watcher.changed(seen), 5)
        ended: str = watcher.over
    async with watching(bus, names) as late:
        assert ended == late.over == "done"


async def test_one_that_is_heard_before_it_is_stored_is_known_once_it_is(bus: Bus, names: RunNames) -> None:
    """Whoever hears may be quicker than a server that syncs what it stores."""
    watcher, heard = Watcher(bus, names), asyncio.Queue[Heard]()
    found = member(state=READY)
    found.incarnation = 1
    key = names.member_key(found.kind, found.instance)
    async with beside(watcher.run(heard)):
        heard.put_nowait(Heard(names.key_subject(key), found.SerializeToString()))
        async with asyncio.timeout(10):
            while not heard.empty():
                await asyncio.sleep(0.01)
        await Bucket(bus, names).put(key, found.SerializeToString())
        assert await until(watcher, "generation-0") < SOON


async def test_what_is_no_member_is_left_out(bus: Bus, names: RunNames) -> None:
    """Bytes that are none, and one that says under its key that it is another."""
    bucket = Bucket(bus, names)
    await bucket.put(names.member_key("generation", "bad"), b"\xff\xff\xff")
    await bucket.put(names.member_key("rollout", "liar"), member(state=READY).SerializeToString())
    async with watching(bus, names) as watcher:
        assert not watcher.view.members()


async def test_whoever_may_speak_may_say_anything_and_nobody_falls_over_it(bus: Bus, names: RunNames) -> None:
    async with watching(bus, names) as watcher, announcing(bus, names, member()) as announcer:
        start = names.member_subjects.removesuffix("*.*")
        for tail in ("generation.a:b", f"generation.{'x' * 100}", "generation._", "gen.é", "generation.generation-7"):
            await bus.client.publish(f"{start}{tail}", b"\xff\xff")
        await announcer.say(READY)
        assert await until(watcher, "generation-0") < 10
