"""The bus: everything Penstock knows about NATS JetStream. No other package speaks NATS.

Tasks are delivered at least once (`TaskConsumer`), trajectories and decisions are written exactly once
(`publish_once`, `append`) and read in order (`read`); large payloads travel by claim check.
"""

from penstock.bus.claims import is_payload_of, load_payload, store_payload
from penstock.bus.connection import Bus, connect
from penstock.bus.embedded import EmbeddedServer, find_nats_server, server_command, write_config
from penstock.bus.errors import (
    BusClosed,
    BusError,
    BusRefused,
    BusTimeout,
    DigestMismatch,
    Fenced,
    KeyConflict,
    LoginRefused,
    NotFound,
    PayloadTooLarge,
    SequenceGap,
    StreamFull,
    StreamMismatch,
    UnsafeServer,
)
from penstock.bus.guarding import guard_store, store_problem
from penstock.bus.hearing import Heard, hearing
from penstock.bus.kv import Bucket, KeyValue
from penstock.bus.publishing import Published, append, publish_once
from penstock.bus.reading import Entry, last_entry, read
from penstock.bus.streams import RunLimits, StreamState, ensure_run, stream_state, trim, until_run
from penstock.bus.tasks import Backlog, Task, TaskConsumer
from penstock.bus.users import Files, User, tls_section, users_section
from penstock.names import RunNames, TaskKind

__all__ = [
    "Backlog",
    "Bucket",
    "Bus",
    "BusClosed",
    "BusError",
    "BusRefused",
    "BusTimeout",
    "DigestMismatch",
    "EmbeddedServer",
    "Entry",
    "Fenced",
    "Files",
    "Heard",
    "KeyConflict",
    "KeyValue",
    "LoginRefused",
    "NotFound",
    "PayloadTooLarge",
    "Published",
    "RunLimits",
    "RunNames",
    "SequenceGap",
    "StreamFull",
    "StreamMismatch",
    "StreamState",
    "Task",
    "TaskConsumer",
    "TaskKind",
    "UnsafeServer",
    "User",
    "append",
    "connect",
    "ensure_run",
    "find_nats_server",
    "is_payload_of",
    "last_entry",
    "load_payload",
    "publish_once",
    "guard_store",
    "hearing",
    "read",
    "server_command",
    "store_payload",
    "store_problem",
    "stream_state",
    "trim",
    "until_run",
    "tls_section",
    "users_section",
    "write_config",
]
