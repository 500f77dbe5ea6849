"""The JetStream objects of a run: made once, verified ever after.

TASKS and LOG hold one message per subject and refuse a second (`discard new`, per subject): that refusal is what makes
publishing idempotent. The LEDGER only grows. All are on file, and the server must fsync every write: both are verified,
because a server with the defaults loses acknowledged messages at a power cut and looks healthy until then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from dataclasses import dataclass
from typing import Literal

from nats.js import api

from penstock.bus.connection import Bus
from penstock.bus.errors import BusTimeout, NotFound, StreamMismatch, UnsafeServer
from penstock.names import RunNames
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
GIB = 1 << 30
LOOK_SECONDS = 0.5
_COMPARED = (
    "subjects",
    "retention",
    "storage",
    "discard",
    "discard_new_per_subject",
    "max_msgs_per_subject",
    "max_msgs",
    "max_bytes",
    "num_replicas",
    "deny_delete",
    "deny_purge",
)


_GAINED = ("allow_msg_ttl", "allow_rollup_hdrs", "allow_direct")
"""What a stream of an earlier release may lack, and takes."""


@dataclass(frozen=True)
class RunLimits:
    """How much of a run the server keeps.

    Attributes:
        log_bytes: room for trajectories; a full log pauses generation until it is trimmed.
        log_messages: the same in samples, -1 for no limit.
        tasks_bytes, ledger_bytes, blob_bytes: room for tasks, decisions, large payloads.
        replicas: copies in a NATS cluster, 1, 3 or 5.
        durability: "verify" refuses a server that is not proven to fsync every write (needs the bus's `monitor_url`);
            "trust" leaves that to whoever runs the server.
    """

    log_bytes: int = 8 * GIB
    log_messages: int = -1
    tasks_bytes: int = GIB
    ledger_bytes: int = 4 * GIB
    blob_bytes: int = 8 * GIB
    replicas: int = 1
    durability: Literal["verify", "trust"] = "verify"


@dataclass(frozen=True)
class StreamState:
    """What a stream holds. `first_sequence` is that of the next message where the stream is empty; `max_bytes` is its
    room, −1 for as much as there is."""

    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    max_bytes: int = -1

    @property
    def fill(self) -> float:
        """The share of its room that is used."""
        return self.bytes / self.max_bytes if self.max_bytes > 0 else 0.0


async def ensure_run(bus: Bus, names: RunNames, limits: RunLimits | None = None) -> None:
    """Makes the streams, bucket and blob store of a run, or verifies those that exist; they may grow. Idempotent.

    Raises:
        UnsafeServer: see `RunLimits.durability`.
        StreamMismatch: one exists with another configuration.
    """
    limits = limits or RunLimits()
    if limits.durability == "verify":
        await require_synced_writes(bus)
    for config in stream_configs(names, limits):
        await _ensure(bus, config)


async def until_run(bus: Bus, names: RunNames) -> None:
    """Waits, listed and without a deadline, until somebody has made the run's streams; says in the log whom it waits
    for."""
    said = False
    with waiting(f"the streams of run {names.run}", on="whoever makes the run", deadline=None):
        while True:
            try:
                await bus.ask(f"look up run {names.run}", lambda: bus.js.stream_info(names.bucket_stream))
                return
            except NotFound:
                if not said:
                    logger.warning(
                        "NATS has no run %r yet: `penstock train` or `penstock create RECIPE` makes it; waiting for it",
                        names.run,
                    )
                said = True
            except BusTimeout as error:
                logger.warning("still waiting for run %r: %s", names.run, error)
            await asyncio.sleep(LOOK_SECONDS)  # a server announces no streams


def stream_configs(names: RunNames, limits: RunLimits) -> list[api.StreamConfig]:
    """The configuration of every JetStream object of a run (pure)."""

    def stream(name: str, subjects: str, max_bytes: int, **more: object) -> api.StreamConfig:
        config = api.StreamConfig(
            name=name,
            subjects=[subjects],
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            max_bytes=max_bytes,
            max_msgs=-1,
            num_replicas=limits.replicas,
            duplicate_window=120,
        )
        return config.evolve(**more)

    once = {"max_msgs_per_subject": 1, "discard_new_per_subject": True}
    return [
        stream(names.tasks, names.subjects("task"), limits.tasks_bytes, **once),
        stream(names.log, names.subjects("log"), limits.log_bytes, max_msgs=limits.log_messages, **once),
        stream(names.ledger, names.subjects("ledger"), limits.ledger_bytes, deny_delete=True, deny_purge=True),
        stream(names.blobs, names.subjects("blob"), limits.blob_bytes, **once),
        stream(
            names.bucket_stream,
            names.bucket_subjects,
            -1,
            max_msgs_per_subject=1,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,
            allow_direct=True,
            deny_delete=True,
        ),
    ]


async def _ensure(bus: Bus, config: api.StreamConfig) -> None:
    name = str(config.name)
    try:
        found = (await bus.ask(f"look up stream {name}", lambda: bus.js.stream_info(name))).config
    except NotFound:
        found = (await bus.ask(f"create stream {name}", lambda: bus.js.add_stream(config))).config
    room, had = int(config.max_bytes or -1), int(found.max_bytes or -1)
    if 0 < had < room:
        grown = found.evolve(max_bytes=room)
        found = (await bus.ask(f"give {name} more room", lambda: bus.js.update_stream(grown))).config
    lacking = {key: True for key in _GAINED if getattr(config, key) and not getattr(found, key)}
    if lacking:
        newer = found.evolve(**lacking)
        found = (await bus.ask(f"renew {name}", lambda: bus.js.update_stream(newer))).config
    differences = {
        key: (getattr(found, key), getattr(config, key))
        for key in _COMPARED
        if getattr(found, key) != getattr(config, key)
    }
    if differences:
        raise StreamMismatch(name, differences)


async def require_synced_writes(bus: Bus) -> None:
    """Raises UnsafeServer unless the server's `/varz` says that every write is synced to disk before its ack."""
    if bus.monitor_url is None:
        raise UnsafeServer(
            "cannot verify that NATS syncs every write: give connect() its monitor_url, or set durability='trust'"
        )
    url = f"{bus.monitor_url.rstrip('/')}/varz"

    def fetch() -> bytes:
        with urllib.request.urlopen(url, timeout=bus.attempt_seconds, context=bus.tls) as answer:
            return bytes(answer.read())

    try:
        body = await bus.ask(f"read {url}", lambda: asyncio.to_thread(fetch))
    except OSError as error:
        raise UnsafeServer(f"cannot verify that NATS syncs every write: {url}: {error}") from error
    settings = json.loads(body).get("jetstream", {}).get("config", {})
    if not settings.get("sync_always"):
        raise UnsafeServer(
            "NATS may lose acknowledged messages at a power cut: its sync_interval is "
            f"{settings.get('sync_interval', 'unknown')} ns; set `jetstream {{ sync_interval: always }}`"
        )


async def stream_state(bus: Bus, stream: str) -> StreamState:
    """What the stream holds now.

    Raises:
        NotFound: there is no such stream.
    """
    info = await bus.ask(f"state of {stream}", lambda: bus.js.stream_info(stream))
    state = info.state
    return StreamState(state.messages, state.bytes, state.first_seq, state.last_seq, int(info.config.max_bytes or -1))


async def trim(bus: Bus, stream: str, *, before: int) -> None:
    """Removes the messages whose sequence is below `before`; makes room in a full stream. Idempotent."""
    await bus.ask(f"trim {stream} before {before}", lambda: bus.js.purge_stream(stream, seq=before))
