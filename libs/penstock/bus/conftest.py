"""Fixtures of the bus tests: a real nats-server, a connection, a run."""

import pytest

from penstock.bus import EmbeddedServer, RunLimits
from penstock.testing.nats.fixtures import SMALL, bus, names, nats

__all__ = ["bus", "names", "nats", "server", "small"]


@pytest.fixture
def server(nats: EmbeddedServer) -> EmbeddedServer:
    return nats


@pytest.fixture
def small() -> RunLimits:
    return SMALL
