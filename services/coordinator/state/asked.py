"""What people asked of the run, kept in its bucket: a coordinator that is killed right after it heard them knows it.

A stop is forgotten when the run is started again by `penstock train`, or when it is resumed. A run may also be paused
for a fact that is so until somebody decides: it is kept that it was, so that nobody who resumed the run is told again.

Invariants (test names): a run is paused for a fact once, over restarts and resumes, until it is not so any more.
"""

from penstock.bus import Bucket, Bus, RunNames


class Asked:
    """Of one run. Its bucket has `1 WHY` or `0` in a line, and the fact that it was paused for in a second one."""

    def __init__(self, bus: Bus, names: RunNames) -> None:
        self._bucket, self._names = Bucket(bus, names), names

    async def paused(self) -> bool:
        """Whether the run was paused last, and not resumed."""
        return (await self._paused())[0].startswith("1")

    async def paused_for(self) -> str:
        """Why it was; empty where a person wanted it, or it is not."""
        return (await self._paused())[0][2:]

    async def to_stop(self) -> str:
        """Why the run is to end; empty if nobody asked for it."""
        return await self._of(self._names.stopping_key)

    async def pause(self, paused: bool, why: str = "") -> None:
        """The run is paused, or goes on, which also forgets a stop."""
        _, fact = await self._paused()
        await self._pause(_line(paused, why), fact)
        if not paused:
            await self._bucket.put(self._names.stopping_key, b"")

    async def pause_once(self, fact: str) -> bool:
        """The run is paused for a fact, or nothing is so any more (empty); whether it is paused
        for that: nobody has resumed it since. Where an answer was lost it may be asked again."""
        fact = _one_line(fact)
        said, before = await self._paused()
        if fact != before:
            said = _line(True, fact) if fact else said
            await self._pause(said, fact)
        return bool(fact) and said == _line(True, fact)

    async def stop(self, reason: str) -> None:
        """The run is to end; the first reason stands."""
        if not await self.to_stop():
            await self._bucket.put(self._names.stopping_key, reason.encode(errors="replace"))

    async def _paused(self) -> tuple[str, str]:
        """Both lines."""
        said, _, fact = (await self._of(self._names.paused_key)).partition("\n")
        return said, fact

    async def _pause(self, said: str, fact: str) -> None:
        text = f"{said}\n{fact}" if fact else said
        await self._bucket.put(self._names.paused_key, text.encode(errors="replace"))

    async def _of(self, key: str) -> str:
        found = await self._bucket.get(key)
        return found.value.decode(errors="replace") if found is not None else ""


def _line(paused: bool, why: str) -> str:
    return f"1 {_one_line(why)}".strip() if paused else "0"


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
