"""Fixtures of the bus tests: a real nats-server, a connection, a run."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.bus import Bus, EmbeddedServer, RunLimits, RunNames, connect, ensure_run

_numbers = itertools.count()
SMALL = RunLimits(log_bytes=64 << 20, tasks_bytes=16 << 20, ledger_bytes=16 << 20, blob_bytes=64 << 20)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store", tmp_path / "nats.log") as running:
        yield running


@pytest_asyncio.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="test", monitor_url=server.monitor_url, attempt_seconds=0.5) as connected:
        yield connected


@pytest_asyncio.fixture
async def names(bus: Bus) -> RunNames:
    run = RunNames(f"r{next(_numbers)}")
    await ensure_run(bus, run, SMALL)
    return run


@pytest.fixture
def small() -> RunLimits:
    return SMALL
