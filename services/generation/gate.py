"""Holds requests back until the engine holds a version they may use.

Invariants (test names): a request never starts on a version older than its min_step; a pinned request starts on exactly
its version; weights are not swapped while a pinned request runs; of a version that is taken back none runs on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.telemetry.waits import waiting


class PinMissed(Exception):
    """The engine has moved past the pinned version."""


class Gate:
    """The step the engine holds (None while it holds nothing usable), and who may pass."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._pinned: set[asyncio.Timeout] = set()
        self._changed = asyncio.Condition()

    async def open(self, step: int) -> None:
        """The engine now holds `step`."""
        async with self._changed:
            self._step = step
            self._changed.notify_all()

    async def close(self) -> None:
        """The engine holds nothing usable (starting, dead)."""
        async with self._changed:
            self._step = None
            self._changed.notify_all()

    @asynccontextmanager
    async def passing(self, min_step: int, pinned_step: int | None, within: float) -> AsyncIterator[None]:
        """Waits for a version the request may use, and keeps it there if it is pinned.

        Raises PinMissed, or TimeoutError after `within` seconds.
        """
        wanted = f"version {pinned_step}" if pinned_step is not None else f"version >= {min_step}"
        with waiting(wanted, on="weight_sync", deadline=within):
            async with asyncio.timeout(within):
                async with self._changed:
                    await self._changed.wait_for(lambda: self._allows(min_step, pinned_step))
                    pin = asyncio.timeout(None)
                    if pinned_step is not None:
                        self._pinned.add(pin)
        try:
            async with pin:
                yield
        except TimeoutError:
            if not pin.expired():
                raise
            raise PinMissed(f"version {pinned_step} was taken back") from None
        finally:
            if pinned_step is not None:
                self._pinned.discard(pin)
                async with self._changed:
                    self._changed.notify_all()

    async def close_unpinned(self, *, taken_back: bool = False) -> None:
        """Waits until no pinned request runs, bounded by their own deadlines, and closes in the same moment: none can
        begin between that and the swap. taken_back: whether the version must not be used any more: they end at once."""
        with waiting("pinned requests", on="rollout", deadline=None):
            async with self._changed:
                while self._pinned:
                    for pin in [each for each in self._pinned if taken_back and not each.expired()]:
                        pin.reschedule(0.0)
                    await self._changed.wait()
                self._step = None

    def _allows(self, min_step: int, pinned_step: int | None) -> bool:
        if self._step is None:
            return False
        if pinned_step is not None and self._step > pinned_step:
            raise PinMissed(f"the engine holds version {self._step}, past the pinned {pinned_step}")
        return self._step >= min_step if pinned_step is None else self._step == pinned_step
