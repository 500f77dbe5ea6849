"""Fixtures of the rollout's tests: a real nats-server, a connection, a run, and the tiny model's tokenizer."""

import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.bus import Bus, EmbeddedServer, RunLimits, RunNames, connect, ensure_run
from penstock.chat import ChatTokenizer
from penstock.tiny import make_model

SMALL = RunLimits(log_bytes=64 << 20, tasks_bytes=16 << 20, ledger_bytes=16 << 20, blob_bytes=64 << 20)


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder: pathlib.Path = tmp_path_factory.mktemp("model")
    make_model(folder, hidden=32, layers=1, intermediate=64)
    return ChatTokenizer(folder)


@pytest_asyncio.fixture
async def nats(tmp_path: pathlib.Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store", tmp_path / "nats.log") as running:
        yield running


@pytest_asyncio.fixture
async def bus(nats: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(nats.url, name="test", monitor_url=nats.monitor_url, attempt_seconds=0.5) as connected:
        yield connected


@pytest_asyncio.fixture
async def names(bus: Bus) -> RunNames:
    run = RunNames("r1")
    await ensure_run(bus, run, SMALL)
    return run
