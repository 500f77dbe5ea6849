"""Work beside a block: it lasts as long as the block, and its failure is the block's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` until the block ends. What the block raises, or else what `work` raised, is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(work)
            try:
                yield
            finally:
                working.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
