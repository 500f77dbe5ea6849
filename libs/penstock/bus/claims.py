"""Claim checks: a payload too large for one message is stored in pieces and travels as a reference.

The pieces are addressed by the payload's digest and published once each, so storing is idempotent and two writers of
the same payload share it. (The NATS client's object store is neither, and read 7 MB/s.) An envelope is one tag byte,
then either the payload itself or a JSON reference `{"digest", "size", "pieces"}`; `digest` is BLAKE2b-256 in
hexadecimal.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from penstock.bus.connection import CALL_SECONDS, Bus
from penstock.bus.errors import DigestMismatch
from penstock.bus.publishing import publish_once
from penstock.bus.reading import last_entry
from penstock.names import RunNames

T = TypeVar("T")
_INLINE, _REFERENCE = b"\x00", b"\x01"
_PIECE_BYTES = 1 << 20
_HEADER_ROOM = 64 << 10
_AT_ONCE = 4
_DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_BYTES = 256 << 20  # of a payload that travels by reference
_REFERENCE_BYTES = 512


async def store_payload(
    bus: Bus, names: RunNames, payload: bytes, *, limit: int | None = None, within: float = 6 * CALL_SECONDS
) -> bytes:
    """Returns the envelope to publish in place of the payload.

    Args:
        limit: bytes up to which the payload stays inside; by default what fits into one message.

    Raises:
        StreamFull, BusTimeout: as `publish_once`.
    """
    if len(payload) <= (bus.max_payload - _HEADER_ROOM if limit is None else limit):
        return _INLINE + payload
    digest = _digest(payload)
    size = min(_PIECE_BYTES, bus.max_payload - _HEADER_ROOM)
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    await _all(
        lambda number: publish_once(bus, names.blob_subject(digest, number), pieces[number], within=within), len(pieces)
    )
    reference = {"digest": digest, "size": len(payload), "pieces": len(pieces)}
    return _REFERENCE + json.dumps(reference).encode()


async def load_payload(bus: Bus, names: RunNames, envelope: bytes) -> bytes:
    """Returns the payload of an envelope.

    Raises:
        DigestMismatch: the envelope is malformed, a piece is missing, or the pieces are not the payload.
    """
    tag, body = envelope[:1], envelope[1:]
    if tag == _INLINE:
        return body
    if tag != _REFERENCE:
        raise DigestMismatch(f"unknown envelope tag {tag!r}")
    digest, size, count = _reference(body)
    fetched = 0

    async def piece(number: int) -> bytes:
        nonlocal fetched
        entry = await last_entry(bus, names.blobs, names.blob_subject(digest, number))
        if entry is None:
            raise DigestMismatch(f"piece {number} of payload {digest} is not in {names.blobs}")
        fetched += len(entry.payload)
        if fetched > size:
            raise DigestMismatch(f"payload {digest}: its pieces hold more than {size} bytes")
        return entry.payload

    payload = b"".join(await _all(piece, count))
    if len(payload) != size or _digest(payload) != digest:
        raise DigestMismatch(f"payload {digest}: fetched {len(payload)} bytes that are not the {size} stored")
    return payload


def is_payload_of(envelope: bytes, payload: bytes) -> bool:
    """Whether a payload is that of an envelope, without a look at its pieces. Raises DigestMismatch for no envelope."""
    tag, body = envelope[:1], envelope[1:]
    return body == payload if tag == _INLINE else _reference(body)[0] == _digest(payload)


def _reference(body: bytes) -> tuple[str, int, int]:
    """Digest, size and number of pieces. Whoever wrote it may have written anything: Infinity, [[[[, years of bytes."""
    if len(body) > _REFERENCE_BYTES:
        raise DigestMismatch(f"malformed reference: {len(body)} bytes")
    try:
        fields = json.loads(body)
        digest, size, count = fields["digest"], fields["size"], fields["pieces"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DigestMismatch(f"malformed reference: {error!r:.200}") from error
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or type(size) is not int or type(count) is not int:
        raise DigestMismatch("malformed reference")
    if not 0 < size <= MOST_BYTES or not 0 < count <= size:
        raise DigestMismatch(f"malformed reference: {size} bytes in {count} pieces; at most {MOST_BYTES} are fetched")
    return digest, size, count


def _digest(payload: bytes) -> str:
    return hashlib.blake2b(payload, digest_size=32).hexdigest()


async def _all(one: Callable[[int], Awaitable[T]], count: int) -> list[T]:
    """Runs `one(0..count-1)`, a few at a time, and returns the results in order."""
    results: dict[int, T] = {}
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            results[number] = await one(number)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, count)):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [results[number] for number in range(count)]
