"""Fixtures of the coordinator's tests: a real nats-server, a connection, a run with its recipe and tokenizer."""

import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.bus import Bus, EmbeddedServer, RunNames, connect, ensure_run
from penstock.chat import ChatTokenizer
from services.coordinator.run_testing import SMALL, make_recipe


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Model and data, made once."""
    made = tmp_path_factory.mktemp("run")
    make_recipe(made)
    return made


@pytest.fixture(scope="session")
def chat(folder: pathlib.Path) -> ChatTokenizer:
    return ChatTokenizer(folder / "model")


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
