"""NATS on a full disk: publishers are told why, nothing acknowledged is lost, and the guard brings it back."""

import asyncio
import os
import pathlib

import pytest

from penstock.bus import (
    BusTimeout,
    EmbeddedServer,
    RunNames,
    connect,
    ensure_run,
    guard_store,
    publish_once,
    read,
    store_problem,
)
from penstock.testing.small_disk import run_on_small_disk

DISK = 48 << 20
PIECE = 1 << 20


async def scenario(folder: pathlib.Path) -> None:
    if folder.stat().st_dev == folder.parent.stat().st_dev:
        return
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(16 << 20))
    names = RunNames("r")
    async with EmbeddedServer(folder / "nats", folder / "nats.log") as server:
        async with connect(server.url, name="test", monitor_url=server.monitor_url, attempt_seconds=0.5) as bus:
            await ensure_run(bus, names)
            published = 0
            with pytest.raises(BusTimeout, match=r"penstock\.r\.log\..* disk full: NATS cannot write: .*LOG_r"):
                while True:
                    subject = names.log_subject(f"g{published:08d}", 0)
                    await publish_once(bus, subject, os.urandom(PIECE), within=2)
                    published += 1
            assert published > 3 and store_problem(server.monitor_url)

            restarted = asyncio.Event()

            async def restart() -> None:
                await server.stop()
                await server.start()
                restarted.set()

            guarding = asyncio.create_task(guard_store(server.monitor_url, folder, restart, room=8 << 20))
            again = asyncio.create_task(publish_once(bus, subject, b"x", within=60))
            assert not restarted.is_set()
            ballast.unlink()
            assert (await again).sequence == published + 1
            assert restarted.is_set() and store_problem(server.monitor_url) == ""
            kept = [entry.subject async for entry in read(bus, names.log, live=False)]
            assert kept == [names.log_subject(f"g{n:08d}", 0) for n in range(published + 1)]
            guarding.cancel()
            await asyncio.gather(guarding, return_exceptions=True)


def test_a_full_disk_is_named_and_what_was_acknowledged_is_kept(tmp_path: pathlib.Path) -> None:
    told = run_on_small_disk("penstock.bus.full_disk_test:scenario", tmp_path / "disk", DISK)
    if "files are limited instead" in told:
        pytest.skip("no file system of our own here: NATS' files are smaller than any limit on files would prove")
