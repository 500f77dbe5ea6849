"""The common frame of a service's `__main__`.

def main() -> None:
    parser = flags("weight_sync", "Stores and serves policy versions.")
    parser.add_argument("--directory", ...)
    run(parser.parse_args(), serve)

async def serve(process: Process, args) -> None:
    process.server.add(...)
    await process.serving()          # until SIGTERM
"""

import argparse
import asyncio
import gc
import logging
import pathlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import uvloop

from penstock.bus import BusError, LoginRefused
from penstock.membership import MemberState, NameTaken
from penstock.process.joining import OtherRelease, Part, PeerMoved, Unreachable, advertised, check_reachable, joined
from penstock.process.settings import security, serve_metrics
from penstock.rpc import AddressInUse, Security, Server
from penstock.system import exits
from penstock.system.disk import DiskFull
from penstock.system.locks import InUse
from penstock.telemetry import logs, tracing

logger = logging.getLogger(__name__)


class Process:
    """A running service process: its server, and what clients it opens should use."""

    def __init__(self, args: argparse.Namespace, server: Server, security: Security, part: Part | None = None) -> None:
        self.name: str = args.name
        self.server = server
        self.security = security
        self.part = part
        self.code = exits.DONE
        self._announce: pathlib.Path | None = args.announce
        self._advertise: str | None = args.advertise
        self._nats: str | None = args.nats
        self._ends_with_run: bool = args.ends_with_run

    @property
    def joined(self) -> Part:
        """This process' part in its run, for a service that cannot do without."""
        assert self.part is not None, "the service's parser demands --nats"
        return self.part

    async def start(self) -> None:
        """Binds the server and says where it is. Nothing may be added to it afterwards. Raises Unreachable."""
        await self.server.start()
        if self._announce is not None:
            self.server.announce(self._announce)
        if self.part is not None and self._nats is not None:
            if self._advertise is not None:
                await asyncio.to_thread(check_reachable, self._advertise)
            await self.part.announce(self._advertise or advertised(self.server.address, self._nats))

    async def serving(
        self,
        *work: Coroutine[Any, Any, None],
        ready: Callable[[], Awaitable[None]] | None = None,
        gives_back: bool = False,
    ) -> None:
        """Starts, serves until SIGTERM, SIGINT or the end of its run, drains. `work` runs beside it and is cancelled at
        the end.

        Work that fails ends the process: a server whose heart stopped must not look alive.

        Args:
            ready: what to wait for before the process says that it is READY.
            gives_back: whether work is cancelled when draining begins: it gives back what it has not finished. Other
                work goes on until those who call have their answers.
        """
        await self.start()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            announcing = [group.create_task(each) for each in self._taking_part(ready)]
            await self.server.until_stopped()
            await self._drained(tasks if gives_back else [])
            for task in (*announcing, *(() if gives_back else tasks)):  # cancelled twice it could not end in peace
                task.cancel()

    def _taking_part(self, ready: Callable[[], Awaitable[None]] | None) -> list[Coroutine[Any, Any, None]]:
        if self.part is None or self.part.announcer is None:
            return []
        beside = [self.part.announcer.run(), self._becoming_ready(self.part, ready)]
        return [*beside, self._until_over(self.part)] if self._ends_with_run else beside

    async def _becoming_ready(self, part: Part, ready: Callable[[], Awaitable[None]] | None) -> None:
        if ready is not None:
            await ready()
        gc.collect()
        gc.freeze()  # what was imported and made to begin with stays: no use in looking through it again and again
        await _told(part, MemberState.MEMBER_STATE_READY)

    async def _until_over(self, part: Part) -> None:
        await part.watcher.until_over()
        logger.info("the run is over (%s): %s ends", part.watcher.over, self.name)
        self.code = exits.FAILED if part.watcher.over == "failed" else exits.DONE
        self.server.stop()

    async def _drained(self, first: Iterable[asyncio.Task[None]]) -> None:
        if self.part is not None:
            await _told(self.part, MemberState.MEMBER_STATE_DRAINING)
        for task in first:
            task.cancel()
        await self.server.drain()


async def _told(part: Part, state: MemberState) -> None:
    """Says it, or has it said with the next announcement where NATS is away."""
    try:
        await part.say(state)
    except BusError as error:
        logger.warning("cannot announce that %s is %s: %s", part.member.instance, MemberState.Name(state), error)


Body = Callable[[Process, argparse.Namespace], Awaitable[None]]


@contextmanager
def observed(args: argparse.Namespace, name: str, run_name: str = "") -> Iterator[None]:
    """The process's logs and traces, under the name it goes by; its last spans are written at the end."""
    logs.configure(name, run=run_name or None, level=args.log_level)
    tracer = tracing.configure(name, run=run_name or None, path=args.trace_file, ratio=args.trace_fraction)
    try:
        yield
    finally:
        if tracer is not None:
            tracer.shutdown()


def run(args: argparse.Namespace, body: Body, run_name: str = "") -> int:
    """Runs a service to its end; the exit code. A taken port and unreadable credentials end it with one clear line."""
    with observed(args, args.name, run_name):
        return _served(args, body, run_name or args.run)


def _served(args: argparse.Namespace, body: Body, run_name: str | None) -> int:
    try:
        if (args.nats is None) != (run_name is None) and args.nats is not None:
            raise ValueError("--nats: which run is it? --run NAME says it")
        credentials = security(args)
        port = serve_metrics(args, credentials)
    except (OSError, ValueError) as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT

    async def main() -> int:
        grace = args.drain_seconds
        async with (
            Server(
                args.name, args.listen, security=credentials, reflection=args.reflection, grace_seconds=grace
            ) as server,
            AsyncExitStack() as stack,
        ):
            part = None
            if args.nats is not None and run_name is not None:
                part = await stack.enter_async_context(joined(args, run_name, credentials, port))
            process = Process(args, server, credentials, part)
            await body(process, args)
            return process.code

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())
    except Exception as error:
        code, why = _told_end(error)
        if code is None:
            raise
        logger.error("%s", why)
        return code


def _told_end(error: BaseException) -> tuple[int | None, str]:
    """The exit code and the words for an end that needs no traceback; None for any other."""
    for each in _causes(error):
        match each:
            case DiskFull() | PeerMoved():
                return exits.FAILED, f"cannot go on: {each}"  # worth starting again
            case AddressInUse() | InUse() | Unreachable() | LoginRefused() | OtherRelease():
                return exits.BAD_INPUT, f"cannot start: {each}"
            case NameTaken():
                return exits.BAD_INPUT, f"cannot go on: {each}"
    return None, ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What an error is, or holds."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    else:
        yield error
