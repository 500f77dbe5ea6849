"""Which learner of a run is the newest: a number in the run's bucket, taken atomically when one starts.

The bucket alone decides. A learner whose number is not the bucket's has been replaced and ends at once; what others
write as a learner's number, into the ledger or the version store, ends nobody. So nobody fences with a number of their
own, and one that no learner can have reached is not counted from.

Invariant (test name): of two learners the later one stays, and the earlier one ends.
"""

import logging

from penstock.bus import Bucket, KeyConflict, KeyValue
from penstock.rules import bounds
from services.learner.interface.errors import AnotherLearner, CannotGoOn

logger = logging.getLogger(__name__)
KEY = "learner_epoch"
PLAUSIBLE = bounds.MOST_EPOCH // 2


class Epoch:
    """This learner's number. Made by `take_epoch`."""

    def __init__(self, bucket: Bucket, number: int) -> None:
        self._bucket, self.number = bucket, number

    async def check(self) -> None:
        """Raises AnotherLearner if a later learner has begun."""
        newest = _number(await self._bucket.get(KEY))
        if newest > self.number:
            raise AnotherLearner(
                f"a later learner (epoch {newest}) trains this run; this one (epoch {self.number}) ends"
            )


async def take_epoch(bucket: Bucket, above: int = 0) -> Epoch:
    """The next number. `above`: the version store's, which it must exceed too. Raises CannotGoOn if that is none."""
    if above > PLAUSIBLE:
        raise CannotGoOn(f"weight_sync holds a version of epoch {above}, which no learner has had; remove it")
    while True:
        held = await bucket.get(KEY)
        number = max(_number(held), above) + 1
        text = str(number).encode()
        try:
            await (bucket.create(KEY, text) if held is None else bucket.update(KEY, text, held.revision))
            return Epoch(bucket, number)
        except KeyConflict:
            logger.info("another learner starts at the same moment")


def _number(held: KeyValue | None) -> int:
    """The number that the bucket holds; 0 if it holds none that a learner can have."""
    if held is None:
        return 0
    text = held.value.decode(errors="replace")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= PLAUSIBLE):
        logger.error("the bucket's %s is %r, which no learner wrote", KEY, text[:40])
        return 0
    return int(text)
