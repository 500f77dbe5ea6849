"""The bucket says which learner is the newest, and nobody can make it say so for ever."""

import pytest

from penstock.bus import Bucket, Bus
from services.learner.interface.errors import AnotherLearner, CannotGoOn
from services.learner.leader.epochs import KEY, PLAUSIBLE, take_epoch
from services.learner.leader.run_testing import NAMES


async def test_of_two_learners_the_later_one_stays_and_the_earlier_one_ends(bus: Bus) -> None:
    bucket = Bucket(bus, NAMES)
    first = await take_epoch(bucket)
    await first.check()
    second = await take_epoch(bucket)
    assert second.number == first.number + 1
    with pytest.raises(AnotherLearner, match=r"epoch 2\) trains this run; this one \(epoch 1\) ends"):
        await first.check()
    await second.check()


@pytest.mark.parametrize("forged", [b"9223372036854775807", b"-1", b"garbage", b"\xff", b"1" * 5000, "٣".encode()])
async def test_a_number_that_no_learner_has_fences_nobody(bus: Bus, forged: bytes) -> None:
    bucket = Bucket(bus, NAMES)
    ours = await take_epoch(bucket, above=4)
    await bucket.put(KEY, forged)
    await ours.check()
    assert (await take_epoch(bucket, above=ours.number)).number == 6


async def test_an_epoch_is_above_what_the_version_store_has_seen(bus: Bus) -> None:
    bucket = Bucket(bus, NAMES)
    assert (await take_epoch(bucket, above=40)).number == 41
    with pytest.raises(CannotGoOn, match="weight_sync holds a version of epoch"):
        await take_epoch(bucket, above=PLAUSIBLE + 1)
