"""Following, judging and recording on a real NATS server: decisions stand in the ledger before they are acted on, and
survive restarts."""

import asyncio

import pytest

from penstock.bus import Bucket, Bus, append, last_entry, publish_once, store_payload, trim
from penstock.trajectories import failed
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.errors import AnotherLearner, CannotGoOn
from services.learner.leader.epochs import take_epoch
from services.learner.leader.run_testing import NAMES, SCHEDULE, admit, event_of, group, leader, publish, sample


async def test_the_batch_is_in_the_ledger_before_it_is_given(bus: Bus) -> None:
    for n in range(3):
        await group(bus, n)
    async with leader(bus) as f:
        batch = await f.batch(1, within=10)
        assert batch is not None and [g.name for g in batch] == ["g00000000", "g00000001"]
        entry = await last_entry(bus, NAMES.ledger, NAMES.ledger_batch_subject(1))
        assert entry is not None
        record = pb.BatchRecord.FromString(entry.payload)
        assert [g.group for g in record.groups] == ["g00000000", "g00000001"]
        assert await f.batch(2, within=0.3) is None  # one group is not a batch


async def test_a_restarted_learner_trains_the_recorded_batch_again(bus: Bus) -> None:
    for n in range(2):
        await group(bus, n)
    async with leader(bus) as f:
        before = await f.batch(1, within=10)
    async with leader(bus, epoch=2) as f:
        after = await f.batch(1, within=10)
    assert before is not None and after is not None
    assert [[m.sequence for m in g.members] for g in before] == [[m.sequence for m in g.members] for g in after]


async def test_a_recorded_batch_is_trained_at_the_rate_that_was_recorded(bus: Bus) -> None:
    for n in range(4):
        await group(bus, n)
    faster = pb.Schedule(learning_rate=1.0, schedule="linear", steps=7)
    async with leader(bus) as f:
        assert await f.batch(1, within=10) is not None and f.schedule(1) == SCHEDULE
    async with leader(bus, epoch=2, schedule=faster) as f:
        assert await f.batch(1, within=10) is not None and f.schedule(1) == SCHEDULE
        await f.trained(1)
        assert await f.batch(2, within=10) is not None and f.schedule(2) == faster


async def test_a_recorded_batch_that_the_log_no_longer_holds_is_not_waited_for(bus: Bus) -> None:
    for n in range(2):
        await group(bus, n)
    async with leader(bus) as f:
        assert await f.batch(1, within=10) is not None
    await trim(bus, NAMES.log, before=3)
    async with leader(bus, epoch=2) as f:
        with pytest.raises(CannotGoOn, match="does not hold all samples of the batch of step 1"):
            await f.batch(1, within=10)


async def test_a_second_learner_trains_what_the_first_recorded_and_the_first_ends(bus: Bus) -> None:
    for n in range(2):
        await group(bus, n)
    bucket = Bucket(bus, NAMES)
    first, second = [(await take_epoch(bucket)).number for _ in range(2)]
    async with leader(bus, epoch=first) as one, leader(bus, epoch=second) as two:
        results = await asyncio.gather(one.batch(1, 10), two.batch(1, 10), return_exceptions=True)
        assert isinstance(results[0], AnotherLearner) and isinstance(results[1], list)
        with pytest.raises(AnotherLearner):
            await one.report(pb.StepReport(step=1))


async def test_garbage_in_the_ledger_is_in_nobodys_way(bus: Bus) -> None:
    """Where a batch, a report and the end of a group belong, somebody wrote something else first."""
    for n in range(2):
        await group(bus, n)
    await group(bus, 2, rewards=(1.0, 1.0))
    taken = [NAMES.ledger_batch_subject(1), NAMES.ledger_step_subject(1), NAMES.ledger_group_subject("g00000002")]
    for subject in (*taken, "penstock.feed-test.ledger.odd"):
        await append(bus, subject, b"\xff garbage", expected_last_sequence=None)
    for life in (1, 2):
        async with leader(bus, epoch=life, drop=True) as f:
            batch = await f.batch(1, within=10)
            assert batch is not None and [g.name for g in batch] == ["g00000000", "g00000001"]
            await f.report(pb.StepReport(step=1))
            assert await f.batch(2, within=0.5) is None
    assert (await event_of(bus, 2)).filtered.reason == pb.FILTER_REASON_ZERO_VARIANCE
    entry = await last_entry(bus, NAMES.ledger, NAMES.ledger_step_subject(1))
    assert entry is not None and pb.StepReport.FromString(entry.payload).step == 1


async def test_a_filtered_group_gives_its_slot_back_at_once(bus: Bus) -> None:
    await group(bus, 0, rewards=(1.0, 1.0))
    async with leader(bus, drop=True) as f:
        assert await f.batch(1, within=1.0) is None
        assert (await event_of(bus, 0)).filtered.reason == pb.FILTER_REASON_ZERO_VARIANCE


async def test_a_group_with_too_few_members_has_failed_with_its_reasons(bus: Bus) -> None:
    task = await admit(bus, 0)
    await publish(bus, sample(task, 0, 1.0))
    await publish(bus, failed(task, 1, "m", pb.Outcome.FAILURE_REWARD, "the reward answered NaN"))
    async with leader(bus) as f:
        assert await f.batch(1, within=1.0) is None
    event = await event_of(bus, 0)
    assert event.failed.failures == {"FAILURE_REWARD": 1}
    assert "NaN" in event.failed.detail


async def test_an_overaged_group_expires_instead_of_being_trained(bus: Bus) -> None:
    async with leader(bus, trained_step=0, max_age=0) as f:
        for n in range(2):
            await group(bus, n)
        assert await f.batch(1, within=10) is not None
        await f.trained(1)
        for n in range(2, 4):
            await group(bus, n, step=0)
        assert await f.batch(2, within=1.0) is None
    assert (await event_of(bus, 2)).expired.age == 1


async def test_waiting_for_a_batch_has_one_deadline_however_many_groups_expire(bus: Bus) -> None:
    """Each pair of overaged groups that is released begins the wait anew; the deadline does not."""
    async with leader(bus, trained_step=5, max_age=0) as f:

        async def stale() -> None:
            for n in range(40):
                await group(bus, n, step=0)

        began, feeding = asyncio.get_running_loop().time(), asyncio.create_task(stale())
        assert await f.batch(6, within=1.0) is None
        assert asyncio.get_running_loop().time() - began < 5.0, "one deadline, and the release under way"
        await feeding


async def test_garbage_in_the_log_fails_its_sample_and_nothing_else(bus: Bus) -> None:
    task = await admit(bus, 0)
    envelope = await store_payload(bus, NAMES, b"not a trajectory")
    await publish_once(bus, NAMES.log_subject(task.group, 0), envelope)
    bad = sample(task, 1, 1.0)
    bad.logprobs = b"\x00" * 8 + b"\x00\x00\xc0\x7f"  # NaN
    await publish(bus, bad)
    await group(bus, 1)
    await group(bus, 2)
    async with leader(bus) as f:
        batch = await f.batch(1, within=10)
        assert batch is not None and [g.name for g in batch] == ["g00000001", "g00000002"]
    assert (await event_of(bus, 0)).failed.failures == {"FAILURE_INVALID": 2}


async def test_what_was_measured_of_a_version_stands(bus: Bus) -> None:
    """A learner that trains recorded steps again measures again; its word changes nothing."""
    for loss in (2.0, 3.0):
        async with leader(bus) as f:
            await f.evaluated(pb.EvaluationReport(step=2, samples=1, metrics={"loss": loss}))
            await f.evaluated(pb.EvaluationReport(step=2, samples=1, metrics={"loss": loss}))
    entry = await last_entry(bus, NAMES.ledger, NAMES.ledger_eval_subject(2))
    assert entry is not None and pb.EvaluationReport.FromString(entry.payload).metrics["loss"] == 2.0
