"""A real nats-server and a run, and what the folders of these tests must have: leases that see who has a file open."""

import pathlib
import tempfile
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import pytest_asyncio

from penstock.bus import Bus, EmbeddedServer, RunNames
from penstock.testing.nats.fixtures import bus, names, nats
from services.weight_sync.disk.leases import can_lease
from services.weight_sync.relay_testing import Stand, stand

__all__ = ["bus", "names", "nats", "tmp_path"]

MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """As pytest makes it, or in memory where a disk has none: in a container it is an overlay."""
    if can_lease(tmp_path):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def chance() -> np.random.Generator:
    return np.random.default_rng(13)


@pytest_asyncio.fixture
async def run(nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path) -> AsyncIterator[Stand]:
    async with stand(nats, bus, names, tmp_path) as running:
        yield running
