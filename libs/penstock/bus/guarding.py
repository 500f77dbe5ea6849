"""Brings a nats-server back that met a full disk.

A stream whose write failed answers no publisher any more, also when there is room again, until the server is restarted
(nats-server 2.15). What was acknowledged is intact. Its health page says so: that is watched here, and the server is
restarted once there is room, not before: without room it could not start at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
ANSWER_SECONDS = 0.5  # asked after a call's time is over, so it must not add much to that
ROOM_BYTES = 64 << 20


def store_problem(monitor_url: str, tls: ssl.SSLContext | None = None) -> str:
    """Why the server cannot write ("disk full: …"), in its own words; empty if it can, or does not answer."""
    try:
        url = f"{monitor_url.rstrip('/')}/healthz"
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS, context=tls):
            return ""
    except urllib.error.HTTPError as error:
        try:
            told = str(json.loads(error.read())["error"])
        except (ValueError, KeyError, OSError):
            return ""
        full = "no space left" in told or "file too large" in told or "quota exceeded" in told
        return f"disk full: NATS cannot write: {told}" if full else ""
    except OSError:
        return ""


async def guard_store(
    monitor_url: str,
    store: Path,
    restart: Callable[[], Awaitable[None]],
    *,
    room: int = ROOM_BYTES,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Restarts the server whenever its store has stopped at a full disk and `room` bytes are free again; for ever."""
    while True:
        problem = await asyncio.to_thread(store_problem, monitor_url, tls)
        if problem:
            logger.error("%s; it is restarted once %d bytes are free in %s", problem, room, store)
            with waiting(f"room on the disk of {store}: {problem}", on="disk", deadline=None):
                while shutil.disk_usage(store).free < room:
                    await asyncio.sleep(LOOK_SECONDS)  # nobody announces room on a disk
            logger.warning("there is room again: NATS is restarted")
            await restart()
        await asyncio.sleep(LOOK_SECONDS)  # the health page announces nothing
