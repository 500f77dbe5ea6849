"""The ranks of this node as one process that dies with this one: `launching` in a child, and what it says at last."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack

from penstock.system import exits
from penstock.system.parent_death import mortal
from services.learner.nodes.standing import KNOWN, Words
from services.learner.ranks.meeting import Meeting

GRACE_SECONDS = 20.0
"""Longer than torchrun's agent takes to end its ranks."""


class Ranks:
    """A running child. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, said: pathlib.Path, stack: AsyncExitStack) -> None:
        self._process, self._said, self._stack = process, said, stack

    @classmethod
    async def start(cls, command: Sequence[str], meeting: Meeting, listener: int | None = None) -> Ranks:
        """Starts the command with the place where its ranks meet. listener: on node 0, the socket that listens."""
        async with AsyncExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-node-")))
            said = folder / "words.json"
            variables = {**os.environ, **meeting.variables(said, listener)}
            passed = () if listener is None else (listener,)
            child = await asyncio.create_subprocess_exec(
                *mortal(command, os.getpid()), env=variables, pass_fds=passed, stdin=asyncio.subprocess.DEVNULL
            )
            return cls(child, said, stack.pop_all())

    async def ended(self) -> Words:
        """Waits until all ranks of this node have ended; how."""
        code = await self._process.wait()
        try:
            found = json.loads(self._said.read_text())
            return Words(str(found["text"]), code, int(found["weight"]))
        except (OSError, ValueError, KeyError):
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            weight = KNOWN if code < 0 else KNOWN + 1
            return Words(f"the launcher of its ranks (process {self._process.pid}) {how}", code, weight)

    async def stop(self) -> None:
        """Ends the ranks, with the time to end well."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()  # its ranks ask the kernel to die with it
                await self._process.wait()
        await self._stack.aclose()


def again(code: int) -> bool:
    """Whether ranks that ended so may do better another time."""
    return code not in (exits.DONE, exits.BAD_INPUT)
