"""One child process: its own process group, its log file, and no life beyond its parent's.

It dies when this process does, even by kill -9 (penstock.system.parent_death); its process group is ended when it is
stopped, so grandchildren (engine cores, ranks) go with it.
"""

import asyncio
import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Mapping, Sequence

from penstock.system.parent_death import mortal


class Child:
    """A running child. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.started_at = time.monotonic()

    @classmethod
    async def start(
        cls, command: Sequence[str], log: pathlib.Path, variables: Mapping[str, str] | None = None
    ) -> "Child":
        """Starts a command with its output appended to `log`, with `variables` beside those of here. Raises OSError."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *mortal(command, os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(variables or {})},
            )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def ended(self) -> int:
        """Waits for its end; the exit code (negative: the signal). What it left behind in its group is killed."""
        code = await self._process.wait()
        self._kill_group()
        return code

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL to its whole group after `grace` seconds."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await self._process.wait()
            except TimeoutError:
                self._kill_group()
                await self._process.wait()
        self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
