"""Where snapshots of a run's ledger are kept: in its bucket, written by the coordinator, read by whoever folds it.

A snapshot is a shortcut and nothing rests on it: one that is missing, damaged, of another release, ahead of the stream
or too new for the reader means that the ledger is folded from its first entry.
"""

import logging
from collections.abc import Mapping
from contextlib import aclosing

from penstock.bus import Bucket, Bus, BusError, RunNames, read, stream_state
from penstock.ledger import BadSnapshot, Fold, Ledger, dump, load

__all__ = ["KEPT", "fold_up_to", "folded", "newest", "store"]
logger = logging.getLogger(__name__)
KEPT = 100
"""Steps of a ledger that stay in the memory of whoever forgets."""


async def store(bus: Bus, names: RunNames, ledger: Ledger, folds: Mapping[str, Fold]) -> bool:
    """Keeps the present state in place of the one before; False, and a warning, where that cannot be."""
    raw = dump(ledger, folds)
    try:
        await Bucket(bus, names).put(names.snapshot_key, raw)
    except BusError as error:
        logger.warning("no snapshot of the ledger: %s", error)
        return False
    logger.info("snapshot of the ledger", extra={"sequence": ledger.sequence, "bytes": len(raw)})
    return True


async def newest(
    bus: Bus, names: RunNames, last: int, *, folds: Mapping[str, Fold] | None = None, step: int | None = None
) -> Ledger | None:
    """The ledger of the newest snapshot; None where there is none to go on from.

    last: of the ledger's stream, its last sequence. folds: who takes up the rest of it. step: what is behind it must
    not be forgotten, where given.
    """
    held = await Bucket(bus, names).get(names.snapshot_key)
    if held is None:
        return None
    try:
        ledger = load(held.value)
        if ledger.sequence > last or (step is not None and ledger.forgotten > step):
            logger.info("the snapshot of the ledger is too new", extra={"sequence": ledger.sequence, "of": last})
            return None
        return load(held.value, folds) if folds else ledger
    except BadSnapshot as bad:
        logger.warning("the snapshot of the ledger is not used: %s", bad)
        return None


async def fold_up_to(bus: Bus, names: RunNames, ledger: Ledger, last: int) -> None:
    """Folds what the stream has behind the ledger's position, up to the sequence `last`."""
    if ledger.sequence >= last:
        return
    async with aclosing(read(bus, names.ledger, after=ledger.sequence)) as entries:
        async for entry in entries:
            ledger.apply(entry.subject, entry.payload, entry.sequence)
            if entry.sequence >= last:
                return


async def folded(bus: Bus, names: RunNames) -> Ledger:
    """The ledger of a run as its stream is now. Raises NotFound (there is no such run), BusTimeout."""
    last = (await stream_state(bus, names.ledger)).last_sequence
    ledger = await newest(bus, names, last) or Ledger()
    await fold_up_to(bus, names, ledger, last)
    return ledger
