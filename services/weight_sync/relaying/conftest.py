"""A real nats-server and a run of a weight_sync."""

import pathlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from penstock.bus import Bus, EmbeddedServer, RunNames
from penstock.testing.nats.fixtures import bus, names, nats
from services.weight_sync.relaying.relay_testing import Stand, stand

__all__ = ["bus", "names", "nats"]


@pytest.fixture
def chance() -> np.random.Generator:
    return np.random.default_rng(13)


@pytest_asyncio.fixture
async def run(nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path) -> AsyncIterator[Stand]:
    async with stand(nats, bus, names, tmp_path) as running:
        yield running
