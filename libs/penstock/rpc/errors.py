"""Errors on the wire: how a handler refuses, and what its caller gets.

A handler raises an `Abort`, made by one of the functions below, from however deep; the server turns it into a status
with `google.rpc` details. The client's `translated()` turns the status back into the tree under `RpcError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from penstock.rules.protos import Violation

DOMAIN = "penstock"
# Status and details travel in HTTP/2 headers, twice and encoded, of which a peer takes 8 KiB by default; a refusal that
# quotes a hostile request must fit all the same.
TEXT_BYTES = 1024
VIOLATION_BYTES = 256
VIOLATIONS_BYTES = 2048
T = TypeVar("T")


class Abort(Exception):
    """Ends the call with a status. Raise it from a handler; its text goes to the caller, shortened if it is long."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()) -> None:
        message = _shortened(message, TEXT_BYTES)
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = details

    def status(self) -> grpc.Status:
        """The status with its details packed, as `abort_with_status` takes it."""
        packed = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed.details.add().Pack(detail)
        status: grpc.Status = rpc_status.to_status(packed)
        return status


def _shortened(text: str, most: int) -> str:
    """At most `most` bytes of UTF-8, with a mark where something is missing."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= most:
        return encoded.decode()
    return encoded[: most - 3].decode(errors="ignore") + "…"


def _info(reason: str, metadata: Mapping[str, str] | None) -> list[Message]:
    if not reason:
        return []
    return [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata or {}))]


def _retry(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    info: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return info


def invalid_argument(message: str, *violations: Violation) -> Abort:
    """The request is wrong; repeating it does not help. Of many violations the first are told."""
    listed, room = [], VIOLATIONS_BYTES
    for v in violations:
        field, description = _shortened(v.field, VIOLATION_BYTES), _shortened(v.description, VIOLATION_BYTES)
        told = error_details_pb2.BadRequest.FieldViolation(field=field, description=description, reason=v.rule)
        room -= told.ByteSize()
        if room < 0:
            break
        listed.append(told)
    details = [error_details_pb2.BadRequest(field_violations=listed)] if listed else []
    return Abort(grpc.StatusCode.INVALID_ARGUMENT, message, details)


def permission_denied(message: str) -> Abort:
    """Who calls may not do this."""
    return Abort(grpc.StatusCode.PERMISSION_DENIED, message)


def not_found(message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> Abort:
    """The named thing does not exist."""
    return Abort(grpc.StatusCode.NOT_FOUND, message, _info(reason, metadata))


def failed_precondition(message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> Abort:
    """The thing is in a state in which the call makes no sense."""
    return Abort(grpc.StatusCode.FAILED_PRECONDITION, message, _info(reason, metadata))


def unavailable(message: str, *, retry_after: float = 1.0, reason: str = "") -> Abort:
    """Not now; repeat after `retry_after` seconds."""
    return Abort(grpc.StatusCode.UNAVAILABLE, message, [_retry(retry_after), *_info(reason, None)])


def resource_exhausted(message: str, *, retry_after: float = 1.0, reason: str = "") -> Abort:
    """Too much at once; repeat after `retry_after` seconds."""
    return Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message, [_retry(retry_after), *_info(reason, None)])


def deadline_exceeded(message: str) -> Abort:
    """The time given to the call, or to something that it needs, is over."""
    return Abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)


def already_exists(message: str, *, reason: str = "") -> Abort:
    """What the call would make is there already, and the same: the caller may go on."""
    return Abort(grpc.StatusCode.ALREADY_EXISTS, message, _info(reason, None))


def out_of_range(message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> Abort:
    """A position or size is beyond the thing's end."""
    return Abort(grpc.StatusCode.OUT_OF_RANGE, message, _info(reason, metadata))


def data_loss(message: str, *, reason: str = "") -> Abort:
    """The bytes are not those that were announced."""
    return Abort(grpc.StatusCode.DATA_LOSS, message, _info(reason, None))


class RpcError(Exception):
    """A call failed, as its caller sees it.

    Attributes:
        code: the gRPC status.
        message: the server's text.
        reason: machine-readable reason (`ErrorInfo.reason`), empty where it gave none.
        metadata: of the reason.
        retry_after: seconds after which repeating makes sense, None where the server does not say.
        violations: fields that are wrong, for INVALID_ARGUMENT.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        fields = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(f"{code.name}: {message}" + (f" ({fields})" if fields else ""))
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)


class InvalidArgument(RpcError):
    """The request is wrong; see `violations`."""


class NotFound(RpcError):
    """The named thing does not exist."""


class FailedPrecondition(RpcError):
    """The thing is in the wrong state."""


class Aborted(RpcError):
    """A conflict with another writer."""


class Unavailable(RpcError):
    """The server is not reachable, starting or draining; an idempotent call may be repeated."""


class ResourceExhausted(RpcError):
    """Too much at once, or a message above the limit."""


class DeadlineExceeded(RpcError):
    """The call's deadline ended first; it is not known whether the server did the work."""


class AlreadyExists(RpcError):
    """What the call would make is there already."""


class OutOfRange(RpcError):
    """A position or size is beyond the thing's end."""


class DataLoss(RpcError):
    """The bytes are not those that were announced."""


class Unauthenticated(RpcError):
    """The server does not know the caller."""


class Unimplemented(RpcError):
    """The server does not serve this method."""


class Internal(RpcError):
    """The server failed; its log has the incident that the message names."""


_TREE: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
}


def from_call(error: grpc.aio.AioRpcError) -> RpcError:
    """The error of this module's tree for a failed call."""
    reason, metadata, retry_after = "", dict[str, str](), None
    violations: list[Violation] = []
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # details that do not belong to the status: the status alone counts
        status = None
    for packed in status.details if status is not None else ():
        info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if packed.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(retry):
            # What says to come back before now says nothing.
            retry_after = max(0, retry.retry_delay.seconds) + max(0, retry.retry_delay.nanos) / 1e9 or None
        elif packed.Unpack(bad):
            violations += [Violation(v.field, v.description, v.reason) for v in bad.field_violations]
    return _TREE.get(error.code(), RpcError)(
        error.code(),
        error.details() or "",
        reason=reason,
        metadata=metadata,
        retry_after=retry_after,
        violations=violations,
    )


@contextmanager
def translated() -> Iterator[None]:
    """Turns a failed call of the block into an `RpcError`."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_call(error) from error


async def call(answer: Awaitable[T]) -> T:
    """Awaits a unary call with its failure translated: `await call(stub.Score(request, timeout=5))`."""
    with translated():
        return await answer
