"""A group whose time is over ends: what is missing becomes FAILED{timeout}, what is there stays."""

import asyncio
import dataclasses
import datetime
import types
from typing import Any

import pytest

from penstock.bus import Bus, RunNames, StreamFull, last_entry, load_payload, stream_state
from penstock.ledger import Group
from penstock.recipes.sections import Limits
from penstock.trajectories import check_trajectory, decode
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.admission import deadlines
from services.coordinator.state.following import Following
from services.coordinator.testing.run import drawn, publish

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def group(name: str, seconds: float) -> Group:
    admitted = pb.Admitted(group_size=4)
    admitted.deadline.FromDatetime(NOW + datetime.timedelta(seconds=seconds))
    return Group(name, 1, admitted, NOW)


def task() -> pb.GroupTask:
    made = pb.GroupTask(run="r1", group="g00000000", kind=pb.TASK_KIND_TRAIN, group_size=4)
    made.rollout.task.id = "train/0"
    made.rollout.sampling.temperature = made.rollout.sampling.top_p = 1.0
    made.rollout.sampling.max_tokens = 8
    return made


async def ends(bus: Bus, names: RunNames) -> list[pb.Trajectory]:
    found = []
    for index in range(4):
        entry = await last_entry(bus, names.log, names.log_subject("g00000000", index))
        assert entry is not None
        found.append(decode(await load_payload(bus, names, entry.payload)))
    return found


@dataclasses.dataclass
class Clock:
    """In place of the module `time`. off: by how much the clock on the wall is wrong."""

    at: float = 0.0
    off: float = 0.0

    def monotonic(self) -> float:
        return self.at

    def time(self) -> float:
        return NOW.timestamp() + self.at + self.off


def watched(
    following: Any, seconds: float = 60.0, outage: float = 0.0, reasons: list[str] | None = None
) -> deadlines.Deadlines:
    limits = Limits(stall_seconds=2.0, group_deadline_seconds=seconds)
    recipe: Any = types.SimpleNamespace(
        model=types.SimpleNamespace(path="m"),
        limits=limits,
        outage_seconds=outage,
        staleness=types.SimpleNamespace(max_versions=1),
    )
    told = [] if reasons is None else reasons
    return deadlines.Deadlines(following.bus, following.names, recipe, following, told.append)


def test_a_group_that_waits_its_turn_is_not_passed_over_however_long_a_step_takes() -> None:
    late = [group("a", -7200), group("b", -3600)]
    for each, step in zip(late, (3, 4), strict=True):
        each.admitted.at_step = step
    assert [deadlines.passed_over(late, step, bound=1) for step in (3, 4, 5, 6, 7)] == [0, 0, 0, 1, 2]
    assert deadlines.passed_over([], 9, bound=1) == 0, "those that are not overdue may be passed over by shorter ones"


def test_a_group_is_overdue_after_its_time_the_grace_and_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(at=100.0)
    monkeypatch.setattr(deadlines, "time", clock)
    following: Any = types.SimpleNamespace(bus=None, names=None, ledger=types.SimpleNamespace(in_flight={}))
    watch, late = watched(following), watched(following, outage=30.0)
    following.ledger.in_flight["g"] = group("g", 110)  # ten seconds are left of it
    for at, overdue in ((100.0, 0), (114.0, 0), (115.5, 1)):
        clock.at = at
        assert len(watch._overdue()) == overdue and not late._overdue(), at
    clock.at = 146.0
    assert len(late._overdue()) == 1


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86400.0 * 400])
def test_a_clock_that_jumps_ends_no_group(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Neither while this process watches, nor where it finds the group after it: then that has its whole time again."""
    clock = Clock()
    monkeypatch.setattr(deadlines, "time", clock)
    following: Any = types.SimpleNamespace(bus=None, names=None, ledger=types.SimpleNamespace(in_flight={}))
    following.ledger.in_flight["g"] = group("g", 60)
    watch = watched(following)
    assert not watch._overdue()
    clock.at, clock.off = 1.0, jump
    again = watched(following)
    assert not watch._overdue() and not again._overdue()
    clock.at = 65.5
    assert watch._overdue() and not again._overdue()
    clock.at = 66.5
    assert again._overdue()


async def test_missing_samples_time_out_and_finished_ones_stay(bus: Bus, names: RunNames) -> None:
    await publish(bus, names, drawn(task(), 2, reward=1.0))
    assert await deadlines.close(bus, names, task(), "model", pb.Outcome.FAILURE_TIMEOUT, "late") == 3
    assert await deadlines.close(bus, names, task(), "model", pb.Outcome.FAILURE_TIMEOUT, "late") == 0
    found = await ends(bus, names)
    for t in found:
        check_trajectory(t)
    assert [t.outcome.failure for t in found] == [4, 4, 0, 4] and found[2].reward == 1.0
    assert not any(t.HasField("reward") for t in found if t.index != 2)


async def test_a_late_worker_and_the_closer_leave_one_end_per_sample(bus: Bus, names: RunNames) -> None:
    late = (publish(bus, names, drawn(task(), index)) for index in range(4))
    ended, *_ = await asyncio.gather(
        deadlines.close(bus, names, task(), "model", pb.Outcome.FAILURE_TIMEOUT, "late"), *late
    )
    statuses = [t.outcome.status for t in await ends(bus, names)]
    assert statuses.count(pb.Outcome.STATUS_FAILED) == ended
    assert (await stream_state(bus, names.log)).messages == 4


async def test_a_full_log_is_given_up_only_after_it_was_full_all_the_time(
    bus: Bus, names: RunNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was full once, the group ended otherwise, and much later it is full again."""
    following, reasons, full = Following(bus, names), list[str](), [True]

    async def close(*_: object) -> int:
        if full[0]:
            raise StreamFull("no room")
        return 0

    monkeypatch.setattr(deadlines, "close", close)
    watch = watched(following, seconds=0.1, reasons=reasons)
    monkeypatch.setattr(watch, "_extra", 0.0)
    working = asyncio.create_task(watch.run())
    try:
        for number in range(2):
            late = Group(f"g{number:08d}", number + 1, pb.Admitted(group_size=4), NOW)
            late.admitted.deadline.FromSeconds(1)
            following.ledger.in_flight[late.name] = late
            while watch._full_since is None:
                await asyncio.sleep(0.01)
            assert not reasons
            del following.ledger.in_flight[late.name]
            await following.notify()
            while watch._full_since is not None:
                await asyncio.sleep(0.01)
        following.ledger.in_flight[late.name] = late
        async with asyncio.timeout(30):
            while not reasons:
                await asyncio.sleep(0.01)
        assert "is overdue, and the log of samples has no room" in reasons[0]
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
