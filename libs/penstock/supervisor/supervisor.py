"""Keeps the services of a plan alive: a child that dies is started again, unless its end says that it must not be.

exit 0 of the learner   its work is done
exit 2                  bad input: starting it again would say the same; the run fails with its last words
out of memory           started again, for other programs may have needed it; MEMORY_DEATHS of them fail the run
anything else           started again after a backoff; FAST_DEATHS in a row without a life in between fail the run
"""

import asyncio
import json
import logging
import pathlib
from collections.abc import Callable, Iterable

from penstock.supervisor.child import Child
from penstock.supervisor.plan import Service
from penstock.system import exits
from penstock.system.memory_kills import OUT_OF_MEMORY, how_it_ended, memory_kills

logger = logging.getLogger(__name__)

FAST_DEATHS = 5
MEMORY_DEATHS = 3
A_LIFE_SECONDS = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
GRACE_SECONDS = 15.0


class ServiceFailed(RuntimeError):
    """A service cannot be kept alive. The text has its name and its last words."""


class Supervisor:
    """The children of one run.

    Args:
        logs: folder of one log file per service.
        on_restart: called with (service, how it ended) whenever a child is about to be started again.
    """

    def __init__(self, logs: pathlib.Path, on_restart: Callable[[str, str], None] = lambda name, how: None) -> None:
        self._logs, self._on_restart = logs, on_restart
        self._children: dict[str, Child] = {}
        self._stopping = False
        self._ended = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._removed: set[str] = set()
        self._kept: dict[str, asyncio.Task[None]] = {}
        self.restarts: dict[str, int] = {}

    async def keep(self, services: Iterable[Service]) -> None:
        """Keeps all services alive until `stop`. Raises ServiceFailed (in an ExceptionGroup) when one cannot be."""
        async with asyncio.TaskGroup() as self._tasks:
            for service in services:
                self.add(service)

    def add(self, service: Service, lost: Callable[[str], None] | None = None) -> None:
        """Keeps one more alive; `keep` must be under way. lost: called with its name where it cannot be kept, which is
        then no end of the others."""
        assert self._tasks is not None, "services are added to those that are kept"
        self._removed.discard(service.name)
        work = self._keep(service) if lost is None else self._keep_or_lose(service, lost)
        self._kept[service.name] = self._tasks.create_task(work, name=service.name)

    async def remove(self, name: str) -> None:
        """Ends a child for good, with the time to hand over what it has."""
        self._removed.add(name)
        task = self._kept.pop(name, None)
        if task is not None:
            task.cancel()  # it stops its child, if it has one now
            await asyncio.gather(task, return_exceptions=True)

    async def ended(self) -> None:
        """Waits until a service that `ends` has ended well."""
        await self._ended.wait()

    async def stop(self, names: Iterable[str] | None = None) -> None:
        """Stops the named children, or all, the last started first; they are not started again."""
        self._stopping = True
        for name in reversed(list(names or self._children)):
            if name in self._children:
                await self._children[name].stop(GRACE_SECONDS)

    def let_end(self) -> None:
        """Starts nothing again from now on: children end by themselves."""
        self._stopping = True

    async def restart(self, name: str) -> None:
        """Stops one child; it is started again as if it had died."""
        await self._children[name].stop(GRACE_SECONDS)

    def pid(self, name: str) -> int | None:
        """The process id of a running child."""
        child = self._children.get(name)
        return child.pid if child is not None and child.running else None

    def last_words(self, name: str) -> str:
        """The last line of a service's log that says something."""
        path = self._logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        for line in reversed(lines[-50:]):
            try:
                record = json.loads(line)
                if record.get("level") in ("error", "critical"):
                    return str(record["message"])
            except (ValueError, AttributeError, KeyError):
                if line.strip() and not line.startswith(("Exception ignored", "  ")):
                    return line.strip()
        return "it left no words"

    def _over(self, service: Service) -> bool:
        """Whether a service is not started again."""
        return self._stopping or service.name in self._removed

    async def _keep_or_lose(self, service: Service, lost: Callable[[str], None]) -> None:
        try:
            await self._keep(service)
        except ServiceFailed as failed:
            logger.error("%s; the others go on", failed)
            lost(service.name)

    async def _keep(self, service: Service) -> None:
        fast, starved, pause = 0, 0, FIRST_PAUSE
        try:
            while not self._over(service):
                kills = memory_kills()
                child = await Child.start(service.command, self._logs / f"{service.name}.log", service.variables)
                self._children[service.name] = child
                logger.info("started", extra={"name_of_service": service.name, "pid": child.pid})
                code = await child.ended()
                if code == 0 and service.ends:
                    self._ended.set()
                if self._over(service) or (code == 0 and service.ends):
                    return
                if code == exits.BAD_INPUT:
                    raise ServiceFailed(f"{service.name} cannot run: {self.last_words(service.name)}")
                lived = asyncio.get_running_loop().time() - child.started_at
                fast, pause = (0, FIRST_PAUSE) if lived > A_LIFE_SECONDS else (fast + 1, min(2 * pause, LONGEST_PAUSE))
                if fast >= FAST_DEATHS:
                    raise ServiceFailed(f"{service.name} died {fast} times in a row: {self.last_words(service.name)}")
                how = how_it_ended(code, kills)
                if how == OUT_OF_MEMORY:
                    starved, how = starved + 1, f"{how}{service.way_out}"
                    if starved >= MEMORY_DEATHS:
                        raise ServiceFailed(f"{service.name} {how} {starved} times")
                self.restarts[service.name] = self.restarts.get(service.name, 0) + 1
                logger.warning("died, starting it again", extra={"name_of_service": service.name, "how": how})
                self._on_restart(service.name, how)
                await asyncio.sleep(pause)  # a backoff: what killed it may need a moment to go
        finally:
            child_or_none = self._children.get(service.name)
            if child_or_none is not None:
                await asyncio.shield(child_or_none.stop(GRACE_SECONDS))
