"""How every server and channel of Penstock is built, and the errors that cross them."""

from penstock.rpc.boundary import caller
from penstock.rpc.certificates import Certificates
from penstock.rpc.channel import breathes, channel, ready
from penstock.rpc.errors import (
    Abort,
    RpcError,
    already_exists,
    call,
    data_loss,
    deadline_exceeded,
    failed_precondition,
    invalid_argument,
    not_found,
    out_of_range,
    permission_denied,
    resource_exhausted,
    translated,
    unavailable,
)
from penstock.rpc.refusing import Refusals, refusing
from penstock.rpc.retrying import Retry, Tries, retried
from penstock.rpc.security import Security, is_local
from penstock.rpc.server import AddressInUse, Server
from penstock.rpc.settings import FOREIGN, Transport
from penstock.rules.protos import Violation

__all__ = [
    "FOREIGN",
    "Abort",
    "AddressInUse",
    "Certificates",
    "Refusals",
    "Retry",
    "RpcError",
    "Security",
    "Server",
    "Transport",
    "Tries",
    "Violation",
    "already_exists",
    "breathes",
    "call",
    "caller",
    "channel",
    "data_loss",
    "deadline_exceeded",
    "failed_precondition",
    "invalid_argument",
    "is_local",
    "not_found",
    "out_of_range",
    "permission_denied",
    "ready",
    "refusing",
    "resource_exhausted",
    "retried",
    "translated",
    "unavailable",
]
