"""The run's key-value bucket.

It is a stream with one message per key, as NATS defines it (`nats kv` reads it, and may remove a key); it is written
with `append`, so creating and updating are idempotent under retries.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from nats.js import api

from penstock.bus.connection import CALL_SECONDS, Bus
from penstock.bus.errors import Fenced, KeyConflict
from penstock.bus.publishing import append
from penstock.bus.reading import Entry, entries_of, last_entry
from penstock.names import RunNames

_OPERATION = "KV-Operation"


@dataclass(frozen=True)
class KeyValue:
    """A key's value. `revision` grows with every change of the bucket."""

    key: str
    value: bytes
    revision: int


class Bucket:
    """The bucket RUN_R."""

    def __init__(self, bus: Bus, names: RunNames) -> None:
        self._bus, self._names = bus, names

    async def get(self, key: str) -> KeyValue | None:
        """The key's value, or None."""
        entry = await self._last(key)
        if entry is None or _is_removed(entry.headers):
            return None
        return KeyValue(key, entry.payload, entry.sequence)

    async def last(self, key: str) -> KeyValue | None:
        """As `get`, but a key that was removed has no bytes, and the revision of its removal."""
        entry = await self._last(key)
        if entry is None:
            return None
        return KeyValue(key, b"" if _is_removed(entry.headers) else entry.payload, entry.sequence)

    async def put(self, key: str, value: bytes) -> int:
        """Sets the key whatever it holds; returns the revision."""
        return await append(self._bus, self._names.key_subject(key), value, expected_last_sequence=None)

    async def renew(
        self, key: str, value: bytes, revision: int, *, ttl: int, within: float = CALL_SECONDS, removed: bool = False
    ) -> int:
        """Sets the key, if it still has `revision` (0: if it has none), for `ttl` seconds; returns the new revision.

        removed: whether the key counts as removed from now on, though readers can still see that it was.
        Raises Fenced, whose `current` is the revision that it has.
        """
        headers = {api.Header.MSG_TTL.value: f"{ttl}s", **({_OPERATION: "DEL"} if removed else {})}
        subject = self._names.key_subject(key)
        return await append(self._bus, subject, value, expected_last_sequence=revision, headers=headers, within=within)

    async def matching(self, subjects: str) -> AsyncGenerator[KeyValue, None]:
        """The keys under these subjects of the bucket, in the order of their revisions."""
        start = len(self._names.key_subject("x")) - 1
        async with aclosing(entries_of(self._bus, self._names.bucket_stream, subjects)) as entries:
            async for entry in entries:
                if not _is_removed(entry.headers):
                    yield KeyValue(entry.subject[start:], entry.payload, entry.sequence)

    async def create(self, key: str, value: bytes) -> int:
        """Sets a key that does not exist; returns the revision.

        Raises:
            KeyConflict: it exists.
        """
        try:
            return await self._write(key, value, 0)
        except Fenced as fenced:
            entry = await self._last(key)
            if entry is not None and not _is_removed(entry.headers):
                raise KeyConflict(key, "it exists already") from fenced
            marker = entry.sequence if entry is not None else 0
        try:
            return await self._write(key, value, marker)
        except Fenced as fenced:
            raise KeyConflict(key, "it was created by somebody else") from fenced

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Sets the key if it still has `revision`; returns the new one.

        Raises:
            KeyConflict: it has another.
        """
        try:
            return await self._write(key, value, revision)
        except Fenced as fenced:
            raise KeyConflict(key, f"its revision is {fenced.current}, not {revision}") from fenced

    async def _last(self, key: str) -> Entry | None:
        return await last_entry(self._bus, self._names.bucket_stream, self._names.key_subject(key))

    async def _write(self, key: str, value: bytes, revision: int) -> int:
        return await append(self._bus, self._names.key_subject(key), value, expected_last_sequence=revision)


def _is_removed(headers: dict[str, str]) -> bool:
    return headers.get(_OPERATION) in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers
