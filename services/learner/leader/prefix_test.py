"""Nobody decides on a prefix of the streams: a restarted learner first folds what was there when it began."""

import random

import pytest

from penstock.bus import Bus, append, reading
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.leader.run_testing import NAMES, event_of, group, leader

STEPS = 3


async def recorded(bus: Bus) -> list[list[str]]:
    """Trains STEPS batches with a learner that is then killed; the names of their groups."""
    for number in range(2 * STEPS + 1):
        await group(bus, number)
    async with leader(bus) as batches:
        made = []
        for step in range(1, STEPS + 1):
            batch = await batches.batch(step, within=10)
            assert batch is not None
            await batches.trained(step)
            made.append([g.name for g in batch])
    return made


@pytest.mark.parametrize("seed", range(3))
async def test_a_restarted_learner_gets_the_recorded_batches_however_the_ledger_is_pulled(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made, sizes = await recorded(bus), random.Random(seed)
    for life in range(2, 6):
        monkeypatch.setattr(reading, "BATCH", sizes.randint(1, 2 * STEPS + 2) if life > 2 else 1)
        begun_at = sizes.randrange(STEPS)
        async with leader(bus, epoch=life, trained_step=begun_at) as batches:
            for step in range(begun_at + 1, STEPS + 1):
                batch = await batches.batch(step, within=10)
                assert batch is not None and [g.name for g in batch] == made[step - 1]
                await batches.trained(step)
            assert await batches.batch(STEPS + 1, within=0.3) is None


async def test_a_released_group_is_not_judged_again_on_a_prefix(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner whose recipe filters more than its predecessor's meets groups that are in batches already."""
    for number in range(2):
        await group(bus, number, rewards=(1.0, 1.0))
    async with leader(bus) as batches:
        assert await batches.batch(1, within=10) is not None
    monkeypatch.setattr(reading, "BATCH", 1)
    async with leader(bus, epoch=2, drop=True) as batches:
        assert await batches.batch(1, within=10) is not None
    assert (await event_of(bus, 0)).WhichOneof("event") == "admitted", "a batch has it: nothing else may release it"


async def test_what_others_wrote_before_a_decision_is_known_to_it(bus: Bus) -> None:
    async with leader(bus) as batches:
        assert await batches.batch(1, within=0.2) is None
        for number in range(2):
            await group(bus, number)
        record = pb.BatchRecord(step=1, writer_epoch=1)
        for number, sequences in ((1, (3, 4)), (0, (1, 2))):
            record.groups.add(group=f"g{number:08d}", indices=(0, 1), log_sequences=sequences)
        subject = NAMES.ledger_batch_subject(1)
        await append(bus, subject, record.SerializeToString(), expected_last_sequence=0)
        batch = await batches.batch(1, within=10)
        assert batch is not None and [g.name for g in batch] == ["g00000001", "g00000000"]
