"""A weight_sync over a socket, and what the folders of these tests must have: leases that see who has a file open."""

import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from services.weight_sync.disk.leases import can_lease
from services.weight_sync.server_testing import channel, store, stub

__all__ = ["channel", "store", "stub", "tmp_path"]

MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """As pytest makes it, or in memory where a disk has none: in a container it is an overlay."""
    if can_lease(tmp_path):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield pathlib.Path(folder)
