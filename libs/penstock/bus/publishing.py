"""Writing to the bus so that repeating a write changes nothing.

`publish_once` rests on the stream: it holds one message per subject and refuses others, so the first writer wins
whoever and however often publishes. `append` rests on the message id and the per-subject fence. Both recognise their
own earlier attempt, whose acknowledgement was lost, by a header that is unique to the call.

Invariants (tests bear their names): a subject published once holds exactly one message, whatever is killed;
an append that was stored is never reported as fenced by itself.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import nats.errors
from nats.js import api
from nats.nuid import NUID

from penstock.bus.connection import CALL_SECONDS, Bus
from penstock.bus.errors import BusRefused, BusTimeout, Fenced, NotFound, PayloadTooLarge, StreamFull
from penstock.telemetry.waits import waiting

WRITER_HEADER = "Penstock-Writer"
_STORE_FAILED = 10077
_WRONG_LAST_SEQUENCE = 10071
_FULL_PAUSE_SECONDS = 0.25
_nuid = NUID()


@dataclass(frozen=True)
class Published:
    """Where the subject's one message is.

    Attributes:
        sequence: in the stream.
        first: whether this call stored it. False: the subject had a message already, and this payload is not kept.
    """

    sequence: int | None
    first: bool


async def publish_once(
    bus: Bus,
    subject: str,
    payload: bytes,
    *,
    headers: dict[str, str] | None = None,
    within: float = CALL_SECONDS,
    on_full: Literal["wait", "raise"] = "wait",
) -> Published:
    """Stores the payload unless the subject has a message already. Safe to repeat, by anybody, at any time.

    Args:
        within: seconds for everything: retries over restarts of the server, and waiting for room.
        on_full: what to do when the stream's limit is reached.

    Raises:
        StreamFull: no room (at once, or after `within`). Nothing was stored.
        BusTimeout: no answer within `within`. It is not known whether the payload was stored; repeat the call.
        PayloadTooLarge, BusRefused, BusClosed.
    """
    writer = _nuid.next().decode()
    end = time.monotonic() + within
    sent = {**(headers or {}), WRITER_HEADER: writer}
    full = False
    with ExitStack() as stack:
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise BusTimeout(f"publish {subject}", within, "subject refused and empty in turn")
            try:
                ack = await _publish(bus, subject, payload, sent, within=left)
                return Published(ack.seq, first=True)
            except BusRefused as refused:
                if refused.code != _STORE_FAILED:
                    raise
                reason = str(refused)
            # The same code says "the subject has its message" and "the stream is full": the subject itself decides.
            stored = await _last(bus, subject, within=max(left, bus.attempt_seconds))
            if stored is not None:
                return Published(stored.seq, first=(stored.headers or {}).get(WRITER_HEADER) == writer)
            if "per subject" in reason:
                continue  # it was trimmed between the refusal and the look
            if on_full == "raise" or time.monotonic() + _FULL_PAUSE_SECONDS + bus.attempt_seconds >= end:
                raise StreamFull(f"{subject}: {reason}")
            if not full:
                full = True
                stack.enter_context(waiting(f"room for {subject}", on="whoever trims the stream", deadline=left))
            await asyncio.sleep(_FULL_PAUSE_SECONDS)  # the server announces no room


async def append(
    bus: Bus,
    subject: str,
    payload: bytes,
    *,
    expected_last_sequence: int | None,
    headers: dict[str, str] | None = None,
    within: float = CALL_SECONDS,
) -> int:
    """Appends a message and returns its sequence.

    Args:
        expected_last_sequence: sequence of the subject's last message as this writer knows it, 0 for an empty subject:
            the append fails if another writer was there since. None appends without a fence.

    Raises:
        Fenced: another writer was there.
        StreamFull, BusTimeout, PayloadTooLarge, BusRefused, BusClosed: as `publish_once`.
    """
    writer = _nuid.next().decode()
    sent = {**(headers or {}), WRITER_HEADER: writer, api.Header.MSG_ID.value: writer}
    if expected_last_sequence is not None:
        sent[api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value] = str(expected_last_sequence)
    try:
        return (await _publish(bus, subject, payload, sent, within=within)).seq
    except BusRefused as refused:
        if refused.code == _STORE_FAILED:
            raise StreamFull(f"{subject}: {refused}") from refused
        if refused.code != _WRONG_LAST_SEQUENCE or expected_last_sequence is None:
            raise
        last = await _last(bus, subject, within=within)
        if last is not None and (last.headers or {}).get(WRITER_HEADER) == writer:
            return int(last.seq or 0)  # our own attempt, whose ack was lost
        raise Fenced(subject, expected_last_sequence, int(last.seq or 0) if last else 0) from refused


async def _publish(bus: Bus, subject: str, payload: bytes, headers: dict[str, str], *, within: float) -> api.PubAck:
    try:
        return await bus.ask(
            f"publish {subject}",
            lambda: bus.js.publish(subject, payload, timeout=bus.attempt_seconds, headers=headers),
            within=within,
        )
    except nats.errors.MaxPayloadError as error:
        raise PayloadTooLarge(
            f"{subject}: {len(payload)} bytes and headers exceed the server's limit of {bus.max_payload}"
        ) from error


async def _last(bus: Bus, subject: str, *, within: float) -> api.RawStreamMsg | None:
    """The subject's last message as the stream's leader knows it."""
    stream = await bus.stream_of(subject)
    try:
        return await bus.ask(f"last message of {subject}", lambda: bus.js.get_last_msg(stream, subject), within=within)
    except NotFound:
        return None
