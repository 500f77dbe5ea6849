"""Reading a stream in order from a cursor: the learner's and the auditor's way in.

A reader is `read(bus, stream, after=cursor)`. It survives restarts of the server and the loss of its (ephemeral)
consumer by starting again after the last entry it yielded.

Invariant (`test_entries_come_in_order_without_gap_or_repeat`): an unfiltered reader yields every sequence above its
cursor exactly once, in order; a hole that trimming does not explain raises `SequenceGap` instead of being skipped.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.js import api

from penstock.bus.connection import CALL_SECONDS, Bus
from penstock.bus.errors import BusTimeout, NotFound, SequenceGap
from penstock.bus.pulling import ConsumerLost, Puller, puller
from penstock.bus.streams import StreamState, stream_state, trim

__all__ = ["Entry", "StreamState", "last_entry", "read", "stream_state", "trim"]

logger = logging.getLogger(__name__)
BATCH = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a stream. `at` is when the server stored it."""

    sequence: int
    subject: str
    payload: bytes
    headers: dict[str, str]
    at: datetime


async def read(
    bus: Bus, stream: str, *, after: int = 0, subjects: str | None = None, live: bool = True
) -> AsyncGenerator[Entry, None]:
    """Yields the entries whose sequence is above `after`, in order.

    The next batch is asked for when the former is used up, so a slow reader holds little memory. Close the generator
    (`contextlib.aclosing`) when leaving it early.

    Args:
        after: the cursor: sequence of the last entry that was dealt with.
        subjects: filter, e.g. `penstock.R.ledger.batch.*`; gaps cannot be checked then.
        live: go on waiting for new entries; otherwise end when the stream is read up.

    Raises:
        SequenceGap: entries are missing, or the stream ends before the cursor (an older copy was restored).
        NotFound: there is no such stream.
    """
    cursor = after
    while True:
        try:
            state = await stream_state(bus, stream)
            if state.last_sequence < cursor:
                raise SequenceGap(stream, state.last_sequence + 1, cursor)
            if not live and state.last_sequence <= cursor:
                return
            consumer = await _consumer(bus, stream, cursor, subjects)
            async with puller(bus, stream, consumer) as pull, aclosing(_entries(bus, pull, live)) as entries:
                async for entry in entries:
                    if subjects is None and entry.sequence != cursor + 1:
                        await _explain_gap(bus, stream, cursor + 1, entry.sequence - 1)
                    cursor = entry.sequence
                    yield entry
            return
        except (ConsumerLost, BusTimeout) as error:
            logger.info("reading again: %s", error, extra={"stream": stream, "after": cursor})


async def _consumer(bus: Bus, stream: str, after: int, subjects: str | None) -> str:
    config = api.ConsumerConfig(
        deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=after + 1,
        ack_policy=api.AckPolicy.NONE,
        filter_subject=subjects,
        inactive_threshold=60.0,
        mem_storage=True,
        num_replicas=1,
    )
    info = await bus.ask(f"reader of {stream}", lambda: bus.js.add_consumer(stream, config))
    return info.name


async def _entries(bus: Bus, pull: Puller, live: bool) -> AsyncGenerator[Entry, None]:
    delivered = 0
    while True:
        received = 0
        async for message in pull.pull(BATCH, wait=live, max_bytes=2 * bus.max_payload):
            received += 1
            number, entry = _entry(message)
            if number != delivered + 1:
                raise ConsumerLost(f"delivery {number} came after {delivered}")
            delivered = number
            yield entry
        if not live and not received:
            return


def _entry(message: Msg) -> tuple[int, Entry]:
    """Splits the ack subject `$JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.delivery.time.pending`."""
    parts = message.reply.split(".")
    start = 2 if len(parts) == 9 else 4
    sequence, delivery, nanoseconds = (int(part) for part in parts[start + 3 : start + 6])
    at = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return delivery, Entry(sequence, message.subject, message.data, dict(message.headers or {}), at)


async def _explain_gap(bus: Bus, stream: str, first: int, last: int) -> None:
    state = await stream_state(bus, stream)
    if last >= state.first_sequence:
        raise SequenceGap(stream, max(first, state.first_sequence), last)


async def entries_of(bus: Bus, stream: str, subjects: str) -> AsyncGenerator[Entry, None]:
    """The entries that are under these subjects now, oldest first, one call each: for streams that hold few, and for
    users that may make no consumer."""
    after = 0
    while True:
        try:
            found = await bus.ask(
                f"entries of {subjects}",
                lambda: bus.js.get_msg(stream, seq=after + 1, subject=subjects, next=True),  # noqa: B023
            )
        except NotFound:
            return
        after = int(found.seq or 0)
        yield _raw(found)


async def last_entry(bus: Bus, stream: str, subject: str, *, within: float = CALL_SECONDS) -> Entry | None:
    """The last entry of a subject (wildcards allowed) as the stream's leader knows it; None if it has none."""
    what = f"last entry of {subject}"
    try:
        found = await bus.ask(what, lambda: bus.js.get_last_msg(stream, subject), within=within)
    except NotFound:
        return None
    return _raw(found)


def _raw(found: api.RawStreamMsg) -> Entry:
    at = found.time if isinstance(found.time, datetime) else datetime.now(UTC)
    return Entry(int(found.seq or 0), str(found.subject), found.data or b"", dict(found.headers or {}), at)
