"""Where ranks meet: on one host in files that their user alone can reach, on several at a store that node 0 has.

torchrun's own rendezvous listens on every interface and unpickles what it is sent: whoever reached the port ran code as
the learner. Here the launcher of one host makes a folder of mode 0700, names it in PENSTOCK_RANKS, and every rank opens
its store and its notes there; what the ranks send each other goes over loopback.

Ranks of several nodes are told in PENSTOCK_NODE which node they are of and where the store is: torch's, which takes and
gives bytes and unpickles nothing. It knows no credentials, and neither do gloo and NCCL: it listens on the one address
that node 0 tells the others, in a network that nobody else may be on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import psutil
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousStoreInfo

BACKEND = "penstock"
FOLDER, NODE = "PENSTOCK_RANKS", "PENSTOCK_NODE"
LOOPBACK = "lo"
PREFIX = "penstock-ranks-"
MEET_SECONDS = 60.0
"""For which an agent waits for node 0's store, and for what the others write there."""


@dataclasses.dataclass(frozen=True)
class Meeting:
    """The place of a node's ranks among those of others. rank: the node's; address: HOST:PORT of the store; host: this
    node's own address on the way to the others. said: file for why the ranks ended. listener: on node 0, the
    descriptor of the socket that listens at `address`."""

    rank: int
    nodes: int
    address: str
    host: str
    said: str = ""
    listener: int | None = None

    @classmethod
    def here(cls) -> Meeting | None:
        """What this process was told; None for ranks of one host."""
        text = os.environ.get(NODE)
        return cls(**json.loads(text)) if text else None

    def variables(self, said: pathlib.Path, listener: int | None) -> Mapping[str, str]:
        """What tells a process."""
        return {NODE: json.dumps(dataclasses.asdict(dataclasses.replace(self, said=str(said), listener=listener)))}

    def store(self, part: str, seconds: float = MEET_SECONDS) -> dist.Store:
        """A connection to a part of the store. Raises torch.distributed.DistStoreError."""
        host, _, port = self.address.rpartition(":")
        own = dist.TCPStore(host.strip("[]"), int(port), is_master=False, timeout=timedelta(seconds=seconds))
        return dist.PrefixStore(part, own)

    def opened(self) -> dist.Store | None:
        """The store itself, while what is returned lives; None but for node 0's launcher, which has its listener."""
        if self.listener is None:
            return None
        host, _, port = self.address.rpartition(":")
        return dist.TCPStore(
            host.strip("[]"),
            int(port),
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=MEET_SECONDS),
            master_listen_fd=self.listener,
        )


class Agents(RendezvousHandler):
    """How torchrun's agent meets those of other nodes; on one host its group is the ranks that it starts."""

    def __init__(self, meeting: Meeting | None) -> None:
        self._meeting = meeting

    def next_rendezvous(self) -> RendezvousInfo:
        """Ranks do not use the address (see `store`)."""
        nowhere = RendezvousStoreInfo("127.0.0.1", 0)
        if self._meeting is None:
            return RendezvousInfo(dist.HashStore(), 0, 1, nowhere)
        store = self._meeting.store("agents")
        return RendezvousInfo(store, self._meeting.rank, self._meeting.nodes, nowhere)

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
    return Agents(Meeting.here())


def own_address(host: str) -> str:
    """The address of this host that a name, or an address, means. Raises OSError for a name that nobody knows,
    ValueError for an address that is not this host's: ranks listen on it."""
    address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    interface_of(address)
    return address


def interface_of(host: str) -> str:
    """The network interface that has an address. Raises ValueError."""
    found = {each.address.partition("%")[0]: name for name, all_of in psutil.net_if_addrs().items() for each in all_of}
    if host not in found:
        raise ValueError(f"no network interface of this host has the address {host}; it has {', '.join(sorted(found))}")
    return found[host]


def sweep(temporary: pathlib.Path) -> None:
    """Removes what launchers left that were killed: folders of this user whose launcher lives no more."""
    for left in temporary.glob(f"{PREFIX}*-*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(FileNotFoundError):  # another launcher sweeps too
            if left.stat().st_uid == os.getuid() and not os.path.exists(f"/proc/{pid}"):
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def meeting() -> Iterator[str]:
    """For the launcher: the ranks that are started in the block meet in a folder of their own, or at a store that is
    there for the block. Gives the name of the rendezvous for torchrun's configuration."""
    if BACKEND not in rendezvous_handler_registry._registry:  # noqa: SLF001 - it has no question of its own
        rendezvous_handler_registry.register(BACKEND, _handler)
    place = Meeting.here()
    interface = LOOPBACK if place is None else interface_of(place.host)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if place is not None:
        kept = place.opened()  # noqa: F841 - it is there as long as somebody holds it
        yield BACKEND
        return
    sweep(pathlib.Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield BACKEND
        finally:
            del os.environ[FOLDER]


def store(world: int) -> dist.Store:
    """For a rank: the store in which its group meets. Raises ValueError where no launcher of ours has started it."""
    if world == 1:
        return dist.HashStore()
    if (place := Meeting.here()) is not None:
        return place.store("group")
    if FOLDER not in os.environ:
        raise ValueError("a learner starts its ranks itself: set learner.ranks and learner.nodes, and no torchrun")
    return dist.FileStore(str(pathlib.Path(os.environ[FOLDER]) / "group"), world)


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


def notes(seconds: float) -> Notes:
    """For a rank of a group that has met: what it tells the others while a collective may hang. seconds: for which one
    look may wait."""
    if (place := Meeting.here()) is not None:
        return place.store("watch", seconds)
    return FolderNotes(pathlib.Path(os.environ[FOLDER]) / "notes")
