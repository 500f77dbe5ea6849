"""A real nats-server with the streams of one run."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from penstock.bus import Bus, EmbeddedServer, connect, ensure_run
from services.learner.leader.run_testing import NAMES


@pytest.fixture
async def bus(tmp_path: pathlib.Path) -> AsyncIterator[Bus]:
    async with EmbeddedServer(tmp_path / "nats", tmp_path / "nats.log") as server:
        async with connect(server.url, name="test", monitor_url=server.monitor_url) as opened:
            await ensure_run(opened, NAMES)
            yield opened
