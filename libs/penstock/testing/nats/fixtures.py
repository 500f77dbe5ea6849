"""Fixtures of tests that speak with a real nats-server: the server, a connection, a run with small streams.

from penstock.testing.nats.fixtures import bus, names, nats    # in a conftest.py, and in its __all__
"""

import pathlib
from collections.abc import AsyncIterator

import pytest_asyncio

from penstock.bus import Bus, EmbeddedServer, RunLimits, RunNames, connect, ensure_run

SMALL = RunLimits(log_bytes=64 << 20, tasks_bytes=16 << 20, ledger_bytes=16 << 20, blob_bytes=64 << 20)


@pytest_asyncio.fixture
async def nats(tmp_path: pathlib.Path) -> AsyncIterator[EmbeddedServer]:
    """A server of the test's own, with a store of its own."""
    async with EmbeddedServer(tmp_path / "store", tmp_path / "nats.log") as running:
        yield running


@pytest_asyncio.fixture
async def bus(nats: EmbeddedServer) -> AsyncIterator[Bus]:
    """A connection that tries again twice a second."""
    async with connect(nats.url, name="test", monitor_url=nats.monitor_url, attempt_seconds=0.5) as connected:
        yield connected


@pytest_asyncio.fixture
async def names(bus: Bus) -> RunNames:
    """A run whose streams are there, and SMALL."""
    run = RunNames("r1")
    await ensure_run(bus, run, SMALL)
    return run
