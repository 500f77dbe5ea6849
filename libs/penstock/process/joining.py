"""How a process takes part in a run: it finds the others in the run's bucket, and says there where it is itself.

A process without --nats takes no part: others must be told its address, and it theirs.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from penstock.access import Login
from penstock.bus import Bus, BusError, RunNames, connect, until_run
from penstock.membership import Announcer, Member, MemberState, View, Watcher, announcing, watching
from penstock.rpc import Security
from penstock.system.version import VERSION

logger = logging.getLogger(__name__)
ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - what it means to listen there
CALL_BACK_SECONDS = 3.0
DOMAIN = "PENSTOCK_DOMAIN"
"""The variable with a domain below which hosts are known by their addresses with dashes, as 10-0-0-7.DOMAIN: what a
certificate can name where addresses come and go."""


class Unreachable(ValueError):
    """Nobody answers at the address that a process would tell the others."""


class OtherRelease(ValueError):
    """The run is of a release that this program does not understand."""


class PeerMoved(RuntimeError):
    """A service that this process is connected to for its life is elsewhere now: it must be started again."""


class Part:
    """A process' place in its run: `bus`, `names`, `watcher`; `member` is what it says of itself. Made by `joined`."""

    def __init__(self, bus: Bus, names: RunNames, watcher: Watcher, member: Member, stack: AsyncExitStack) -> None:
        self.bus, self.names, self.watcher, self.member = bus, names, watcher, member
        self.announcer: Announcer | None = None
        self._stack = stack
        self._listeners: list[Callable[[bool], None]] = []

    def when_written_off(self, listener: Callable[[bool], None]) -> None:
        """As of Announcer; may be said before there is one."""
        self._listeners.append(listener)

    async def address_of(self, kind: str) -> str:
        """Waits, listed and without a deadline, until one of a kind is READY; where it is."""
        await self.watcher.until(lambda view: bool(view.ready(kind)), f"a {kind} that is ready", on=kind)
        return self.watcher.view.ready(kind, zone=self.member.zone)[0].address

    async def until_moved(self, kind: str, address: str) -> None:
        """Follows the one of a kind that this process is connected to, for ever. Raises PeerMoved once one is READY
        elsewhere, and none is where it was."""
        found: list[str] = []

        def moved(view: View) -> bool:
            found[:] = [m.address for m in view.ready(kind)]
            return bool(found) and address not in found

        await self.watcher.until(moved, f"another {kind}", on=kind, idle=True)
        raise PeerMoved(f"{kind} has moved from {address} to {found[0]}")

    async def announce(self, address: str) -> Announcer:
        """Says that this process is there, STARTING. Raises NameTaken, BusError."""
        self.member.address = address
        self.announcer = await self._stack.enter_async_context(announcing(self.bus, self.names, self.member))
        for listener in self._listeners:
            self.announcer.when_written_off(listener)
        return self.announcer

    async def holds(self, step: int) -> None:
        """Says which version of the policy this engine holds, with the next announcement where NATS is away.

        Raises NameTaken."""
        self.member.step = step
        try:
            await self.say(self.member.state)
        except BusError as error:
            logger.warning("cannot announce version %d yet: %s", step, error)

    async def say(self, state: MemberState) -> None:
        """Says how far it is; nothing where it has not been announced. Raises NameTaken, BusError."""
        if self.announcer is not None:
            await self.announcer.say(state)


@asynccontextmanager
async def joined(args: argparse.Namespace, run: str, security: Security, metrics_port: int = 0) -> AsyncIterator[Part]:
    """Connects to the run's NATS, and waits, listed and without a deadline, until it is there and has the run.

    Raises LoginRefused where NATS does not take the credentials, OtherRelease where the run is too old or new for this.
    """
    names = RunNames(run)
    async with AsyncExitStack() as stack:
        login = nats_login(args, security)
        bus = await stack.enter_async_context(connect(args.nats, name=args.name, login=login, within=None))
        await until_run(bus, names)
        watcher = await stack.enter_async_context(watching(bus, names))
        check_release(watcher.view.members())
        member = Member(
            kind=args.part if "part" in args else args.service,
            instance=args.name,
            state=MemberState.MEMBER_STATE_STARTING,
            host=platform.node(),
            zone=args.zone or os.environ.get("PENSTOCK_ZONE", ""),
            version=VERSION,
            metrics_address=advertised(f"{args.metrics_host}:{metrics_port}", args.nats) if metrics_port else "",
        )
        member.since.GetCurrentTime()
        yield Part(bus, names, watcher, member, stack)


def check_release(members: Iterable[Member], own: str = VERSION) -> None:
    """Raises OtherRelease where a member is of another major version, or further than one minor version from it."""
    for member in members:
        try:
            (major, minor), (there, other) = (tuple(map(int, each.split(".")[:2])) for each in (own, member.version))
        except ValueError:
            continue  # it says nothing that can be compared
        if major != there or abs(minor - other) > 1:
            raise OtherRelease(
                f"this is Penstock {own}, and {member.instance} of the run is {member.version}: releases work together "
                f"within one minor version; start the run's"
            )


def nats_login(args: argparse.Namespace, held: Security) -> Login:
    """How to show oneself to NATS: by --nats-token-file or PENSTOCK_NATS_TOKEN, with the certificates of `held`.

    Raises OSError.
    """
    path = args.nats_token_file
    text = path.read_text() if path is not None else os.environ.get("PENSTOCK_NATS_TOKEN", "")
    return Login.parsed(text, held.certificates.context() if held.certificates is not None else None)


def advertised(bound: str, nats: str) -> str:
    """Where others reach what is bound here: where it listens, or, for one that listens everywhere, the address by
    which this host reaches NATS, or the name that it has by it below DOMAIN."""
    host, _, port = bound.rpartition(":")
    if host.strip("[]") not in ANYWHERE:
        return bound
    own = _own_address(nats)
    domain = os.environ.get(DOMAIN, "")
    return f"{re.sub('[.:]', '-', own.strip('[]'))}.{domain}:{port}" if domain else f"{own}:{port}"


def _own_address(nats: str) -> str:
    """This host's address on the way to the first server of a NATS URL; nothing is sent."""
    parts = urlsplit(nats.split(",")[0])
    found = socket.getaddrinfo(parts.hostname or "127.0.0.1", parts.port or 4222, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        own = str(probe.getsockname()[0])
    return f"[{own}]" if ":" in own else own


def check_reachable(address: str) -> None:
    """Raises Unreachable where nobody answers at an address that others would be told."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CALL_BACK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise Unreachable(f"--advertise {address}: nobody answers there, as seen from here ({error})") from error
