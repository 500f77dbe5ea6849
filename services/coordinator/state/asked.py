"""What people asked of the run, kept in its bucket: a coordinator that is killed right after it heard them knows it.

A stop is forgotten when the run is started again by `penstock train`, or when it is resumed.
"""

from penstock.bus import Bucket, Bus, RunNames


class Asked:
    """Of one run."""

    def __init__(self, bus: Bus, names: RunNames) -> None:
        self._bucket, self._names = Bucket(bus, names), names

    async def paused(self) -> bool:
        """Whether the run was paused last, and not resumed."""
        return (await self._of(self._names.paused_key)).startswith(b"1")

    async def paused_for(self) -> str:
        """Why it was; empty where a person wanted it, or it is not."""
        return (await self._of(self._names.paused_key))[2:].decode(errors="replace")

    async def to_stop(self) -> str:
        """Why the run is to end; empty if nobody asked for it."""
        return (await self._of(self._names.stopping_key)).decode(errors="replace")

    async def pause(self, paused: bool, why: str = "") -> None:
        """The run is paused, or goes on, which also forgets a stop."""
        said = f"1 {why}".strip() if paused else "0"
        await self._bucket.put(self._names.paused_key, said.encode(errors="replace"))
        if not paused:
            await self._bucket.put(self._names.stopping_key, b"")

    async def stop(self, reason: str) -> None:
        """The run is to end; the first reason stands."""
        if not await self.to_stop():
            await self._bucket.put(self._names.stopping_key, reason.encode(errors="replace"))

    async def _of(self, key: str) -> bytes:
        found = await self._bucket.get(key)
        return found.value if found is not None else b""
