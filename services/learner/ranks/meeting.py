"""Where the ranks of one host meet: files that their user alone can reach, no port that anybody could.

torchrun's own rendezvous listens on every interface and unpickles what it is sent: whoever reached the port ran code as
the learner. Here the launcher makes a folder of mode 0700, names it in PENSTOCK_RANKS, and every rank opens its store
and its notes there; what the ranks send each other goes over loopback. On several hosts torchrun is started by hand and
ranks meet by its MASTER_ADDR and MASTER_PORT: that needs a network which nobody else is on.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousStoreInfo

BACKEND = "one-host"
FOLDER = "PENSTOCK_RANKS"
LOOPBACK = "lo"
PREFIX = "penstock-ranks-"
STORE_SECONDS = 10.0


class OneHost(RendezvousHandler):
    """torchrun's agent has nobody to meet: its group is the ranks that it starts."""

    def next_rendezvous(self) -> RendezvousInfo:
        """A group of one agent, whose notes stay in its memory. Ranks do not use the address (see `stores`)."""
        return RendezvousInfo(dist.HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 0))

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return BACKEND

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        return None

    def num_nodes_waiting(self) -> int:
        return 0

    def shutdown(self) -> bool:
        return True


def _handler(parameters: RendezvousParameters) -> RendezvousHandler:
    return OneHost()


def sweep(temporary: pathlib.Path) -> None:
    """Removes what launchers left that were killed: folders of this user whose launcher lives no more."""
    for left in temporary.glob(f"{PREFIX}*-*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(FileNotFoundError):  # another launcher sweeps too
            if left.stat().st_uid == os.getuid() and not os.path.exists(f"/proc/{pid}"):
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def meeting() -> Iterator[str]:
    """For the launcher: the ranks that are started in the block meet in a folder of their own. Gives the name of the
    rendezvous for torchrun's configuration."""
    if BACKEND not in rendezvous_handler_registry._registry:  # noqa: SLF001 - it has no question of its own
        rendezvous_handler_registry.register(BACKEND, _handler)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK)
    sweep(pathlib.Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield BACKEND
        finally:
            del os.environ[FOLDER]


def store(world: int) -> dist.Store | None:
    """For a rank: the store in which its group meets; None where torchrun's own is to be used, among the
    ranks of several hosts."""
    if world == 1:
        return dist.HashStore()
    folder = os.environ.get(FOLDER)
    if folder is None:
        return None
    return dist.FileStore(str(pathlib.Path(folder) / "group"), world)


class Notes(Protocol):
    """What ranks tell each other beside their work. Raises RuntimeError or OSError where it cannot be told or read."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...


class FolderNotes:
    """A file for each note, replaced as a whole: a rank that is stopped while it writes holds no lock for which others
    would wait, as they do with a FileStore."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def set(self, key: str, value: str) -> None:
        partial = self._at(f"{key}.{os.getpid()}")
        partial.write_text(value)
        partial.replace(self._at(key))

    def get(self, key: str) -> bytes:
        return self._at(key).read_bytes()

    def check(self, keys: list[str]) -> bool:
        return all(self._at(key).exists() for key in keys)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def _at(self, key: str) -> pathlib.Path:
        return self._folder / key.replace("/", "-")


def notes() -> Notes:
    """For a rank of a group that has met: what it tells the others while a collective may hang."""
    folder = os.environ.get(FOLDER)
    if folder is not None:
        return FolderNotes(pathlib.Path(folder) / "notes")
    own = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    own.set_timeout(timedelta(seconds=STORE_SECONDS))
    return dist.PrefixStore("watch", own)
