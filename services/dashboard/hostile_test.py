"""Whatever a stranger sends to the page, it is answered or hung up on; the page stays, and keeps its key."""

import asyncio
import os
import pathlib
import random
import sys
from collections.abc import AsyncIterator

import pytest_asyncio

KEY = "a-key-of-this-test"
SEEDS = [
    f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: penstock-80={KEY}\r\nConnection: close\r\n\r\n".encode()
    for path in ("", "history?after=3", "samples", "explain", "static/page.js", f"?key={KEY}", "nowhere")
]
HOSTS = ["127.0.0.1:99999999", "127.0.0.1:x", "[::1", "]", "127.0.0.1:", "\x00", "a" * 5000, "127.0.0.1:-1", ""]
PATHS = [
    "/history?after=-1",
    "/history?after=99999999999999999999999",
    "/history?after=" + "9" * 6000,
    "/history?after=%ff%fe",
    "/static/../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/app.py",
    "/static/\x00",
    "//etc/passwd",
    "/%00",
    "/?key=%ff",
    "/?key=" + "k" * 60000,
]
GROWTH = 64 << 20


@pytest_asyncio.fixture
async def page(tmp_path: pathlib.Path) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """Port and process of a page whose coordinator is away."""
    (tmp_path / "key").write_text(KEY)
    told = tmp_path / "address"
    command = ("--coordinator", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--key-file", tmp_path / "key")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.dashboard", *map(str, command), "--announce", str(told)
    )
    try:
        async with asyncio.timeout(60):
            while not told.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)  # a file announces nothing
        yield int(told.read_text().rpartition(":")[2]), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def send(port: int, raw: bytes, within: float = 20.0) -> bytes:
    """What is answered until the other side hangs up, or `within` seconds: half a request has no answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(within):
            writer.write(raw)
            return await reader.read()
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def mutated(rng: random.Random) -> bytes:
    raw = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 30)]
            case 2:
                raw[at:at] = rng.randbytes(rng.randint(1, 200))
            case _:
                raw[at:at] = raw[: rng.randint(1, len(raw))]
        if not raw:
            break
    return bytes(raw)


def resident(process: asyncio.subprocess.Process) -> int:
    return int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_nothing_that_is_sent_ends_or_fills_the_page_or_is_an_error_of_its_own(
    page: tuple[int, asyncio.subprocess.Process],
) -> None:
    port, process = page
    rng = random.Random(7)
    cookie = f"Cookie: penstock-{port}={KEY}\r\n"
    made = [f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1") for host in HOSTS]
    made += [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{cookie}Connection: close\r\n\r\n".encode("latin-1")
        for path in PATHS
    ]
    before = 0
    for number, raw in enumerate([*made, *(mutated(rng) for _ in range(200))]):
        answer = await send(port, raw, within=20 if raw in made else 0.05)
        assert raw not in made or answer, raw[:300]
        assert status(answer) < 500 or status(answer) == 503, (raw[:300], answer[:300])
        assert KEY.encode() not in answer.replace(b"penstock-80=" + KEY.encode(), b"") or status(answer) == 303
        assert b"root:" not in answer and process.returncode is None
        before = before or (resident(process) if number == 100 else 0)
    assert resident(process) - before < GROWTH
    good = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{cookie}Connection: close\r\n\r\n".encode()
    assert status(await send(port, good)) == 200


async def test_connections_that_say_nothing_keep_nobody_out(page: tuple[int, asyncio.subprocess.Process]) -> None:
    port, _ = page
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    for _, writer in silent:
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
    good = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: penstock-{port}={KEY}\r\nConnection: close\r\n\r\n"
    assert status(await send(port, good.encode())) == 200
    for _, writer in silent:
        writer.close()
