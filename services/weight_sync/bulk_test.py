"""The bulk socket gives a version's bytes to who shows a good ticket, and cuts everybody else."""

import contextlib
import pathlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.rpc import Certificates
from penstock.telemetry import metrics
from penstock.testing.certificates import issue
from services.weight_sync import bulk as module
from services.weight_sync.bulk import Bulk
from services.weight_sync.tickets import TICKET_BYTES, TICKET_SECONDS, Grant

DATA = bytes(range(256)) * 40_000  # more than the buffers of a connection


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "version.bin"
    made.write_bytes(DATA)
    return made


@pytest.fixture
def bulk() -> Iterator[Bulk]:
    with Bulk("127.0.0.1", 0) as running:
        yield running


def issued(bulk: Bulk, path: pathlib.Path, offset: int = 0, ago: float = 0.0) -> bytes:
    return bulk.tickets.issue(Grant(path, offset, len(DATA)), time.monotonic() - ago)


def connected(bulk: Bulk) -> socket.socket:
    return socket.create_connection(("127.0.0.1", bulk.port), timeout=10)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 20):
            found += piece
    return bytes(found)


def asked(bulk: Bulk, ticket: bytes) -> bytes:
    with connected(bulk) as connection:
        connection.sendall(ticket)
        return rest(connection)


def refused() -> float:
    return float(module._refused._value.get())


def sent() -> float:
    return float(metrics.counter(metrics.WEIGHT_BYTES_SENT, "")._value.get())


@pytest.mark.parametrize("offset", [0, 1, len(DATA) - 1, len(DATA)])
def test_a_ticket_gives_the_bytes_from_its_offset(bulk: Bulk, path: pathlib.Path, offset: int) -> None:
    before = sent()
    assert asked(bulk, issued(bulk, path, offset)) == DATA[offset:]
    assert bulk.sent == sent() - before == len(DATA) - offset


def test_a_wrong_used_or_expired_ticket_gets_no_byte_and_is_counted(bulk: Bulk, path: pathlib.Path) -> None:
    before, good = refused(), issued(bulk, path)
    assert asked(bulk, good) == DATA
    expired = issued(bulk, path, ago=TICKET_SECONDS)
    for n, ticket in enumerate((good, bytes(TICKET_BYTES), expired, b"GET / HTTP/1.1\r\nHost: weights\r\n\r\n"), 1):
        assert asked(bulk, ticket) == b"" and refused() == before + n
    assert bulk.sent == len(DATA)


def test_a_peer_that_sends_or_reads_nothing_is_cut(
    bulk: Bulk, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICKET_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    before = refused()
    with connected(bulk) as silent, connected(bulk) as halfway, connected(bulk) as gone:
        halfway.sendall(issued(bulk, path)[:-1])
        gone.shutdown(socket.SHUT_WR)
        assert rest(silent) == rest(halfway) == rest(gone) == b""
    assert refused() == before + 3
    with connected(bulk) as deaf:
        deaf.sendall(issued(bulk, path))
        assert deaf.recv(1) == DATA[:1]
        ended()
        assert len(rest(deaf)) < len(DATA)
    assert asked(bulk, issued(bulk, path)) == DATA


def test_a_file_that_is_gone_or_cut_ends_the_connection(bulk: Bulk, path: pathlib.Path) -> None:
    ticket, longer = issued(bulk, path), bulk.tickets.issue(Grant(path, 0, len(DATA) + 1), time.monotonic())
    assert asked(bulk, longer) == DATA
    path.unlink()
    assert asked(bulk, ticket) == b""


def test_of_too_many_connections_the_last_is_closed(
    bulk: Bulk, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 1)
    with connected(bulk) as first:
        assert asked(bulk, issued(bulk, path)) == b""
        first.sendall(issued(bulk, path))
        assert rest(first) == DATA


def test_it_goes_on_accepting_after_there_were_no_descriptors_or_no_threads(
    bulk: Bulk, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, (soft, hard) = threading.Event(), resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module.logger, "warning", lambda *_: said.set())
    with socket.socket() as connection:
        connection.settimeout(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (connection.fileno() + 1, hard))
        try:
            connection.connect(("127.0.0.1", bulk.port))
            assert said.wait(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        connection.sendall(issued(bulk, path))
        assert rest(connection) == DATA

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        assert asked(bulk, issued(bulk, path)) == b""
    assert asked(bulk, issued(bulk, path)) == DATA
    ended()
    assert not bulk._open


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("::", ["127.0.0.1", "::1"]),
        ("::1", ["::1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
        ("six", ["::1"]),
    ],
)
def test_it_listens_at_the_addresses_of_its_host(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, host: str, reached: list[str]
) -> None:
    real = socket.getaddrinfo
    if ":" in "".join(reached):
        skip_without_ipv6()

    def resolved(name: str | None, *more: Any, **options: Any) -> Any:
        return real("::1" if name == "six" else name, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with Bulk(host, 0) as bulk:
        for address in reached:
            with socket.create_connection((address, bulk.port), timeout=10) as connection:
                connection.sendall(issued(bulk, path))
                assert rest(connection) == DATA


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_the_end_of_the_service_ends_what_is_sent_and_leaves_no_thread(
    tmp_path: pathlib.Path, path: pathlib.Path, tls: bool
) -> None:
    ca, _ = issue(tmp_path, "ca")
    server, client = (held(tmp_path, name, ca) for name in ("server", "client"))
    before = threading.active_count()
    with contextlib.ExitStack() as peers:
        with Bulk("127.0.0.1", 0, server if tls else None) as bulk:

            def joined() -> socket.socket:
                plain = connected(bulk)
                both = client.context().wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
                return peers.enter_context(both)

            silent = peers.enter_context(connected(bulk))
            halfway, reading = joined(), joined()
            halfway.sendall(issued(bulk, path)[:-1])
            reading.sendall(issued(bulk, path))
            assert reading.recv(1) == DATA[:1]
            assert threading.active_count() == before + 4
        assert threading.active_count() == before and not bulk._open
        assert len(rest(reading)) < len(DATA) - 1 and rest(halfway) == rest(silent) == b""
    with pytest.raises(ConnectionRefusedError):
        connected(bulk)


@pytest.mark.parametrize("ends", ["before the handshake's socket is there", "behind it"])
def test_a_connection_that_comes_with_the_end_of_the_service_is_cut_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    ca, _ = issue(tmp_path, "ca")
    server, before = held(tmp_path, "server", ca), threading.active_count()
    reached, go_on, secured = threading.Event(), threading.Event(), Bulk._secured

    def slowly(self: Bulk, connection: socket.socket) -> socket.socket:
        made = secured(self, connection) if ends == "behind it" else None
        reached.set()
        assert go_on.wait(10)
        return made or secured(self, connection)

    monkeypatch.setattr(Bulk, "_secured", slowly)
    bulk = Bulk("127.0.0.1", 0, server).__enter__()
    with connected(bulk) as connection:
        assert reached.wait(10)
        ending = threading.Thread(target=bulk.__exit__, args=(None, None, None))
        ending.start()
        assert bulk._closing.wait(10)
        bulk._accepting.join(10)
        go_on.set()
        ending.join(10)
        assert threading.active_count() == before and rest(connection) == b""


def test_with_tls_nobody_without_a_certificate_gets_as_far_as_a_ticket_and_is_counted(
    tmp_path: pathlib.Path, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, _ = issue(tmp_path, "ca")
    issue(tmp_path, "strangers")
    server, client = held(tmp_path, "server", ca), held(tmp_path, "client", ca)
    stranger = held(tmp_path, "stranger", ca, "strangers")
    with Bulk("127.0.0.1", 0, server) as bulk:
        before, ticket = refused(), issued(bulk, path)

        def asking(context: ssl.SSLContext) -> bytes:
            with context.wrap_socket(connected(bulk), server_hostname="127.0.0.1") as connection:
                connection.sendall(ticket)
                return rest(connection)

        assert DATA[:100] not in asked(bulk, ticket)  # an alert, in plain text
        for nobody in (stranger, Certificates.of_files(authority=ca)):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert asking(nobody.context()) == b""
        ended()
        assert refused() == before + 3
        assert asking(client.context()) == DATA and refused() == before + 3
        monkeypatch.setattr(module, "TICKET_WAIT_SECONDS", 0.3)
        assert trickled(bulk) < 5, "the time is that of the whole handshake"
        ended()
        assert refused() == before + 4


def held(folder: pathlib.Path, name: str, authority: pathlib.Path, issuer: str = "ca") -> Certificates:
    """What a process has that trusts an authority."""
    certificate, key = issue(folder, name, issuer)
    return Certificates.of_files(authority=authority, certificate=certificate, key=key)


def trickled(bulk: Bulk) -> float:
    """For how many seconds a peer is borne that begins a handshake and sends a byte of it now and then."""
    hello, began = bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]) + bytes(500), time.monotonic()
    with connected(bulk) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(0.05)
        for each in range(len(hello)):
            connection.sendall(hello[each : each + 1])
            with contextlib.suppress(TimeoutError):
                assert connection.recv(1) == b""
                break
    return time.monotonic() - began


def ended() -> None:
    """Waits until no connection is served."""
    for each in threading.enumerate():
        if each.name == module.SERVING:
            each.join(10)


def skip_without_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")
