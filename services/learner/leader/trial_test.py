"""Where versions are tried, a group waits for what is decided of those that drew it: none of a rejected is trained."""

import asyncio

from penstock.bus import Bus, append
from penstock.ledger import Ledger
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1 import weights_pb2
from services.learner.interface.group import CompleteGroup, Member
from services.learner.leader.judge import tried
from services.learner.leader.run_testing import NAMES, event_of, group, leader, sample

PROMOTE, REJECT = weights_pb2.DECISION_PROMOTE, weights_pb2.DECISION_REJECT


async def decide(bus: Bus, step: int, decision: weights_pb2.Decision) -> None:
    said = pb.VersionDecision(step=step, decision=decision)
    await append(bus, NAMES.ledger_version_subject(step), said.SerializeToString(), expected_last_sequence=None)


def drawn_by(*steps: int) -> CompleteGroup:
    task = pb.GroupTask(run="r", group="g00000007", kind=pb.TASK_KIND_TRAIN, group_size=len(steps))
    return CompleteGroup("g00000007", tuple(Member(sample(task, i, 1.0, s), i) for i, s in enumerate(steps)))


def ledger_of(**decisions: weights_pb2.Decision) -> Ledger:
    ledger = Ledger()
    ledger.step = 9
    for name, decision in decisions.items():
        ledger.apply_decision(pb.VersionDecision(step=int(name[1:]), decision=decision), 1)
    return ledger


def test_a_group_waits_for_its_newest_version_and_goes_with_a_rejected_one() -> None:
    assert tried(drawn_by(0, 0), Ledger()) is True
    assert tried(drawn_by(0, 1), Ledger()) is False
    assert tried(drawn_by(1, 2), ledger_of(v2=PROMOTE)) is True
    assert tried(drawn_by(1, 2), ledger_of(v1=PROMOTE)) is False
    event = tried(drawn_by(1, 3), ledger_of(v1=PROMOTE, v3=REJECT))
    assert isinstance(event, pb.LedgerEvent) and event.filtered.name == "drawn_by_rejected_version_3"
    assert isinstance(tried(drawn_by(3, 4), ledger_of(v3=REJECT, v4=PROMOTE)), pb.LedgerEvent)
    assert tried(drawn_by(3, 3), ledger_of(v3=PROMOTE, v4=REJECT)) is True


async def test_no_token_of_a_rejected_version_is_trained(bus: Bus) -> None:
    """Version 1 is rejected with a group that it drew; version 2 draws two, which wait until it is promoted."""
    for number in (0, 1):
        await group(bus, number)
    async with leader(bus, trial=True) as batches:
        first = await batches.batch(1, within=10)
        assert first is not None and len(first) == 2
        await group(bus, 2, step=1)
        assert await batches.batch(2, within=0.3) is None
        await decide(bus, 1, REJECT)
        async with asyncio.timeout(10):
            while not (await event_of(bus, 2)).HasField("filtered"):
                await asyncio.sleep(0.01)
        for number in (3, 4):
            await group(bus, number, step=1)
        assert await batches.batch(2, within=0.3) is None
        for number in (5, 6):
            await group(bus, number)
        second = await batches.batch(2, within=10)
        assert second is not None and [g.name for g in second] == ["g00000005", "g00000006"]
    async with leader(bus, epoch=2, trial=True, trained_step=1) as again:
        replayed = await again.batch(2, within=10)
        assert replayed is not None and [g.name for g in replayed] == ["g00000005", "g00000006"]
        for number in (7, 8):
            await group(bus, number, step=2)
        assert await again.batch(3, within=0.3) is None
        await decide(bus, 2, PROMOTE)
        third = await again.batch(3, within=10)
        assert third is not None and [g.name for g in third] == ["g00000007", "g00000008"]


async def test_where_the_recipe_says_so_what_a_trial_draws_is_trained_at_once(bus: Bus) -> None:
    for number in (0, 1):
        await group(bus, number)
    async with leader(bus) as batches:
        assert await batches.batch(1, within=10) is not None
        await decide(bus, 1, REJECT)
        for number in (2, 3):
            await group(bus, number, step=1)
        second = await batches.batch(2, within=10)
        assert second is not None and [g.name for g in second] == ["g00000002", "g00000003"]
