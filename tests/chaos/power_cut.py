"""Cuts the power of NATS' disk: `python -m tests.chaos.power_cut FOLDER SECONDS` prints what was acknowledged and lost.

The store lies on an ext4 of its own, mounted from a file in a mount namespace of this process. While samples are
published the file system is told that its power is gone (EXT4_IOC_SHUTDOWN without a flush of its log: what was not on
the disk never gets there), the server is killed, the file system mounted again, and the server started again.
"""

import argparse
import asyncio
import ctypes
import fcntl
import json
import os
import pathlib
import subprocess

from penstock.bus import Bus, BusError, EmbeddedServer, RunLimits, RunNames, connect, ensure_run, publish_once, read

IMAGE_BYTES = 256 << 20
SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2
WRITERS = 4
SMALL = RunLimits(log_bytes=96 << 20, tasks_bytes=8 << 20, ledger_bytes=8 << 20, blob_bytes=8 << 20)


class Disk:
    """A file system in a file."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._image, self.path = folder / "disk.img", folder / "disk"
        self.path.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self.mount()

    def mount(self) -> None:
        """Makes it there; the journal is replayed as after a power cut."""
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def cut(self) -> None:
        """From now on nothing reaches the disk."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, WITHOUT_FLUSH.to_bytes(4, "little"))
        finally:
            os.close(handle)

    def unmount(self) -> None:
        """Takes it away."""
        _run("umount", str(self.path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def own_mounts() -> None:
    """What is mounted from now on is this process' alone, and goes with it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):  # NEWNS; REC | PRIVATE
        raise OSError(ctypes.get_errno(), "a mount namespace of our own")


async def publish(bus: Bus, names: RunNames, writer: int, acknowledged: set[str]) -> None:
    """Publishes samples for ever, or until the bus fails; those that were acknowledged are noted."""
    number = 0
    while True:
        subject = names.log_subject(f"g{writer:02}{number:06}", 0)
        try:
            await publish_once(bus, subject, os.urandom(512), within=5)
        except BusError:
            return
        acknowledged.add(subject)
        number += 1


async def main(folder: pathlib.Path, seconds: float) -> dict[str, int]:
    own_mounts()
    disk, names, acknowledged = Disk(folder), RunNames("r"), set[str]()
    server = EmbeddedServer(disk.path / "store", folder / "nats.log")
    await server.start()
    async with connect(server.url, name="writer", attempt_seconds=0.5, monitor_url=server.monitor_url) as bus:
        await ensure_run(bus, names, SMALL)
        writers = [asyncio.create_task(publish(bus, names, i, acknowledged)) for i in range(WRITERS)]
        await asyncio.sleep(seconds)  # how long the power lasts
        disk.cut()
        await server.kill()
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    disk.unmount()
    disk.mount()
    await server.start()
    async with connect(server.url, name="reader", monitor_url=server.monitor_url) as bus:
        await ensure_run(bus, names, SMALL)
        kept = {entry.subject async for entry in read(bus, names.log, live=False)}
    await server.stop()
    disk.unmount()
    return {"acknowledged": len(acknowledged), "lost": len(acknowledged - kept)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("seconds", type=float)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(main(args.folder, args.seconds))))  # noqa: T201 - its answer
