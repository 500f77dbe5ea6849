"""The run's key-value bucket and leases in it.

The bucket is a stream with one message per key, as NATS defines it (`nats kv` reads it); it is written with `append`,
so creating and updating are idempotent under retries. A lease is a key that the server itself removes when it is not
renewed: no clocks are compared, and a holder that was away finds its revision fenced.

Invariant (`test_a_lease_has_one_holder`): between two acquisitions of a lease by different holders, the first was
released or was not renewed for its whole term.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from penstock.bus.connection import CALL_SECONDS, Bus
from penstock.bus.errors import BusError, BusTimeout, Fenced, KeyConflict, LeaseLost
from penstock.bus.names import RunNames, token
from penstock.bus.publishing import append
from penstock.bus.reading import last_entry
from penstock.telemetry.waits import waiting

_OPERATION = "KV-Operation"
_TTL = "Nats-TTL"


@dataclass(frozen=True)
class KeyValue:
    """A key's value. `revision` grows with every change of the bucket."""

    key: str
    value: bytes
    revision: int


class Bucket:
    """The bucket RUN_R."""

    def __init__(self, bus: Bus, names: RunNames) -> None:
        self._bus = bus
        self._name = names.bucket

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}." + ".".join(token(part, "key") for part in key.split("."))

    async def get(self, key: str) -> KeyValue | None:
        """The key's value, or None."""
        entry = await last_entry(self._bus, f"KV_{self._name}", self._subject(key))
        if entry is None or _is_removed(entry.headers):
            return None
        return KeyValue(key, entry.payload, entry.sequence)

    async def put(self, key: str, value: bytes) -> int:
        """Sets the key whatever it holds; returns the revision."""
        return await append(self._bus, self._subject(key), value, expected_last_sequence=None)

    async def create(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """Sets a key that does not exist; returns the revision.

        Args:
            ttl: whole seconds, at least 1, after which the server removes the key.

        Raises:
            KeyConflict: it exists.
        """
        try:
            return await self._write(key, value, 0, ttl)
        except Fenced as fenced:
            entry = await last_entry(self._bus, f"KV_{self._name}", self._subject(key))
            if entry is not None and not _is_removed(entry.headers):
                raise KeyConflict(key, "it exists already") from fenced
            marker = entry.sequence if entry is not None else 0
        try:
            return await self._write(key, value, marker, ttl)
        except Fenced as fenced:
            raise KeyConflict(key, "it was created by somebody else") from fenced

    async def update(self, key: str, value: bytes, revision: int, *, ttl: float | None = None) -> int:
        """Sets the key if it still has `revision`; returns the new one.

        Raises:
            KeyConflict: it has another.
        """
        try:
            return await self._write(key, value, revision, ttl)
        except Fenced as fenced:
            raise KeyConflict(key, f"its revision is {fenced.current}, not {revision}") from fenced

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Removes the key. Idempotent without `revision`.

        Raises:
            KeyConflict: it has not this revision.
        """
        try:
            await append(
                self._bus,
                self._subject(key),
                b"",
                expected_last_sequence=revision,
                headers={_OPERATION: "DEL"},
            )
        except Fenced as fenced:
            raise KeyConflict(key, f"its revision is {fenced.current}, not {revision}") from fenced

    async def _write(self, key: str, value: bytes, revision: int, ttl: float | None) -> int:
        headers = {} if ttl is None else {_TTL: f"{max(1, round(ttl))}s"}
        return await append(self._bus, self._subject(key), value, expected_last_sequence=revision, headers=headers)


def _is_removed(headers: dict[str, str]) -> bool:
    return headers.get(_OPERATION) in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers


class Lease:
    """Sole holding of a name, renewed in the background.

        async with Lease(bus, names, "coordinator", holder="host-1:77", ttl=5).hold() as lease: ...

    If it is lost, the block is cancelled and `LeaseLost` raised from it.

    Args:
        key: below `lease.` in the bucket.
        holder: who holds it, for people.
        ttl: whole seconds after which an unrenewed lease is free.
    """

    def __init__(self, bus: Bus, names: RunNames, key: str, *, holder: str, ttl: int = 5) -> None:
        if ttl < 1:
            raise ValueError(f"a lease of {ttl} s: the server counts whole seconds, at least 1")
        self.key = f"lease.{key}"
        self.revision = 0
        self._bucket = Bucket(bus, names)
        self._holder = holder.encode()
        self._ttl = ttl

    @asynccontextmanager
    async def hold(self, *, within: float = CALL_SECONDS) -> AsyncIterator[Lease]:
        """Holds the lease for the block.

        Args:
            within: seconds to wait for its present holder.

        Raises:
            BusTimeout: somebody else held it all the time.
            LeaseLost: from the block: it was taken over or could not be renewed in time.
        """
        granted = await self._acquire(within)
        owner = asyncio.current_task()
        assert owner is not None
        lost: list[BaseException] = []

        async def renew() -> None:
            renewed = granted
            while True:
                await asyncio.sleep(self._ttl / 3)
                started = time.monotonic()
                try:
                    async with asyncio.timeout(renewed + self._ttl - started):
                        self.revision = await self._bucket.update(self.key, self._holder, self.revision, ttl=self._ttl)
                except (BusError, TimeoutError) as error:
                    lost.append(error)
                    owner.cancel()
                    return
                renewed = started

        renewal = asyncio.create_task(renew(), name=f"renew {self.key}")
        try:
            yield self
        except asyncio.CancelledError:
            if not lost:
                raise
            owner.uncancel()
            raise LeaseLost(f"{self.key} held by {self._holder.decode()}") from lost[0]
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            if not lost:
                await self._release()

    async def _acquire(self, within: float) -> float:
        """Takes the lease; returns when (monotonic) its term began at the latest-safe reading."""
        end = time.monotonic() + within
        with waiting(f"lease {self.key}", on="its holder", deadline=within):
            while True:
                asked = time.monotonic()
                try:
                    self.revision = await self._bucket.create(self.key, self._holder, ttl=self._ttl)
                    return asked
                except KeyConflict as conflict:
                    if time.monotonic() >= end:
                        raise BusTimeout(f"acquire {self.key}", within, str(conflict)) from conflict
                await asyncio.sleep(min(0.25, self._ttl / 4))  # the server announces no expiry

    async def _release(self) -> None:
        try:
            await self._bucket.delete(self.key, revision=self.revision)
        except (KeyConflict, BusTimeout):
            return  # it runs out by itself
