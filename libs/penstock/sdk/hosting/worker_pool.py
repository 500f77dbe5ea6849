"""Worker processes: where code that may hang or crash runs.

A worker answers one request at a time. One that dies or takes too long is killed and replaced at its next use; whoever
waited for it gets `WorkerFailed`. So is one that says that it is worn, after its answer. Workers of a pool import
what they run a few at a time.
Workers die with their parent; they arrange that themselves, because a `preexec_fn` forces a real fork, and a fork of a
process that runs gRPC crashed here.

Invariants (test names): a failed worker is replaced before its next use; no more workers import at once than may.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

from penstock.telemetry import metrics
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
START_SECONDS = 300.0
"""In which a worker has imported its target, once it is its turn: as many import at once as there are processors. More
would make each slower, and where importing takes minutes of one, all of them too slow, again and again."""
MEMORY = 4 << 30
_MAX_ANSWER = 64 << 20
_restarts = metrics.counter(metrics.WORKER_RESTARTS, "Worker processes replaced after a failure.")


class WorkerFailed(Exception):
    """The worker process died, hung, or gave nonsense."""


class Worker:
    """One process. `generation` counts its replacements: state of an older generation is gone. starting: held while it
    imports."""

    def __init__(
        self,
        name: str,
        memory: int = 0,
        variables: Mapping[str, str] | None = None,
        starting: asyncio.Semaphore | None = None,
    ) -> None:
        self.name = name
        self._starting = starting or asyncio.Semaphore()
        self._lost = ""
        self._memory, self._variables = memory, variables or {}
        self.generation = 0
        self._lock = asyncio.Lock()
        self._loaded = set[str]()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def call(
        self, request: Mapping[str, Any], *, seconds: float, generation: int | None = None
    ) -> dict[str, Any]:
        """Sends a request and returns its answer.

        Args:
            seconds: after which the process is killed. Time in the queue and for importing the target does not count.
            generation: fail at once if the process is not of this generation any more.

        Raises:
            WorkerFailed: see there.
        """
        async with self._lock:
            if generation is not None and (self._dead or generation != self.generation):
                raise WorkerFailed(f"{self.name} was replaced since")
            target = request.get("target")
            if self._dead or (target is not None and target not in self._loaded):
                async with self._turn():
                    if self._dead:
                        await self._start()
                    if target is not None:
                        await self._within(START_SECONDS, {"op": "load", "target": target})
                        self._loaded.add(target)
            answer = await self._within(seconds, request)
            if answer.get("worn"):
                self._lost = "an agent has left threads running"
                await self.kill()
            return answer

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """While it may import; those before it have START_SECONDS each."""
        with waiting("its turn to import", on=self.name, deadline=None):
            await self._starting.acquire()
        try:
            yield
        finally:
            self._starting.release()

    @property
    def _dead(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def _within(self, seconds: float, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with waiting(f"{request['op']} {request.get('target', '')}".strip(), on=self.name, deadline=seconds):
                async with asyncio.timeout(seconds):
                    return await self._exchange(request)
        except TimeoutError as error:
            await self.kill()
            self._lost = f"{request['op']} took longer than {seconds:g} s"
            raise WorkerFailed(f"{self.name} took longer than {seconds:g} s and was killed") from error
        except (OSError, EOFError, ValueError) as error:
            await self.kill()
            code = self._process.returncode if self._process else None
            self._lost = f"it died (exit status {code})"
            raise WorkerFailed(f"{self.name} died (exit status {code})") from error
        except BaseException:
            await self.kill()  # cancelled: the answer would be read by the next caller
            self._lost = f"whoever waited for its {request['op']} did not any more"
            raise

    async def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._writer is not None and self._reader is not None
        self._writer.write(json.dumps(request).encode() + b"\n")
        await self._writer.drain()
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("the answer is not an object")
        return answer

    async def _start(self) -> None:
        if self.generation:
            _restarts.inc()
            why = self._lost or "it ended by itself"
            logger.warning(f"a worker process is replaced: {why}", extra={"worker": self.name})
        self._lost = ""
        self.generation += 1
        self._loaded.clear()
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "penstock.sdk.hosting.worker_process",
                    str(request_read),
                    str(answer_write),
                    str(os.getpid()),
                    str(self._memory),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(request_read, answer_write),
                env={**os.environ, **self._variables},
            )
        finally:
            os.close(request_read)
            os.close(answer_write)
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=_MAX_ANSWER)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(answer_read, "rb"))
        transport, flow = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(request_write, "wb")
        )
        self._writer = asyncio.StreamWriter(transport, flow, None, loop)

    async def kill(self) -> None:
        """Ends the process. The next call starts another."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()


class Workers:
    """A fixed number of workers, owned by an `async with` block. Processes start at their first use.

    Args:
        memory: bytes of address space that each may take beyond what its imports take; 0 for any number.
        variables: of each, beside those of here.
    """

    def __init__(
        self,
        count: int = 2,
        *,
        name: str = "worker",
        memory: int = MEMORY,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"{count} workers: at least 1")
        starting = asyncio.Semaphore(os.cpu_count() or 1)
        self.all = [Worker(f"{name}-{number}", memory, variables, starting) for number in range(count)]
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        for worker in self.all:
            self._idle.put_nowait(worker)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Worker]:
        """A worker that nobody else takes by this method during the block; waits for one."""
        worker = await self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put_nowait(worker)

    async def __aenter__(self) -> Workers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.all:
            await worker.kill()
