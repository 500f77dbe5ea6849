"""Hosts on one machine: each a network and a mount namespace of its own, with an address, joined by a bridge.

    with network(["a", "b"]) as hosts:
        hosts["a"].start([...], log)       a process on that host
        with hosts["b"].parted(): ...      nobody reaches b, and b nobody

Namespaces have no names and live as long as a process in them; all of these die with this one, also by kill -9, so that
nothing is left. Needs root, and the programs of MISSING.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from penstock.system.parent_death import mortal

PROGRAMS = ("ip", "unshare", "nsenter", "mount")
SWITCH = "switch"


def missing() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid():
        return "hosts are network namespaces, which only root may make"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"hosts are made by {', '.join(lacking)}, which this machine has not"
    tried = subprocess.run(["unshare", "-n", "-m", "ip", "link", "add", "br0", "type", "bridge"], capture_output=True)
    return f"no bridge can be made: {tried.stderr.decode().strip()}" if tried.returncode else ""


@dataclass
class Host:
    """One host. address: of its one interface; pid: of the process that holds its namespaces."""

    name: str
    address: str
    pid: int
    switch: int
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def port(self) -> str:
        """The switch's end of its cable."""
        return f"to-{self.name}"

    def run(self, *command: str) -> None:
        """Runs a command there to its end. Raises CalledProcessError."""
        subprocess.run([*_inside(self.pid), *command], check=True, capture_output=True)

    def start(
        self, command: Sequence[str], log: pathlib.Path, variables: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """A process there, whose output goes to `log`; it is killed at the end of the network."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                mortal([*_inside(self.pid), *command], os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **(variables or {})},
            )
        self.started.append(process)
        return process

    def hide(self, path: pathlib.Path) -> None:
        """From now on a folder is empty there, and what is written to it stays there."""
        self.run("mount", "-t", "tmpfs", "none", str(path))

    def bind(self, source: pathlib.Path, path: pathlib.Path) -> None:
        """From now on a folder there is another one."""
        self.run("mount", "--bind", str(source), str(path))

    @contextlib.contextmanager
    def parted(self) -> Iterator[None]:
        """The cable of the host is pulled for the block."""
        link = [*_inside(self.switch), "ip", "link", "set", self.port]
        subprocess.run([*link, "down"], check=True)
        try:
            yield
        finally:
            subprocess.run([*link, "up"], check=True)


@contextlib.contextmanager
def network(names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Hosts by name, at 10.77.0.1, 10.77.0.2 and so on. Raises CalledProcessError where `missing` says something."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_held())
        subprocess.run([*_inside(switch), "ip", "link", "add", "br0", "up", "type", "bridge"], check=True)
        hosts = {}
        for number, name in enumerate(names, 1):
            pid = stack.enter_context(_held())
            host = Host(name, f"10.77.0.{number}", pid, switch)
            ends = ["name", host.port, "netns", str(switch), "type", "veth", "peer", "name", "eth0", "netns", str(pid)]
            subprocess.run(["ip", "link", "add", *ends], check=True)
            subprocess.run([*_inside(switch), "ip", "link", "set", host.port, "master", "br0", "up"], check=True)
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                host.run("ip", "link", "set", link, "up")
            hosts[name] = host
        try:
            yield hosts
        finally:
            for process in (each for host in hosts.values() for each in reversed(host.started)):
                process.kill()
                process.wait()


def _inside(pid: int) -> list[str]:
    """What runs a command in the namespaces that a process holds."""
    return [_path("nsenter"), "-t", str(pid), "-n", "-m", "--"]


@contextlib.contextmanager
def _held() -> Iterator[int]:
    """The process that holds two new namespaces."""
    said = "import sys; print(flush=True); sys.stdin.read()"
    command = [_path("unshare"), "-n", "-m", sys.executable, "-I", "-S", "-c", said]
    pipe = subprocess.PIPE
    with subprocess.Popen(mortal(command, os.getpid()), stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()  # now it has them
        try:
            yield process.pid
        finally:
            process.kill()


def _path(program: str) -> str:
    found = shutil.which(program)
    assert found is not None, program
    return found
