"""What can go wrong on the bus. Callers need to know only this tree, never an exception of the NATS client."""

from __future__ import annotations

from penstock.rules.quarantine import BadEntry


class BusError(Exception):
    """Root of all errors raised by `penstock.bus`."""


class BusTimeout(BusError):
    """The server did not answer in time.

    Attributes:
        what: the call that was waited for.
        seconds: how long it was waited for.
    """

    def __init__(self, what: str, seconds: float, cause: str = "") -> None:
        super().__init__(
            f"NATS gave no answer to {what!r} within {seconds:g} s" + (f" (last: {cause})" if cause else "")
        )
        self.what = what
        self.seconds = seconds


class BusClosed(BusError):
    """The connection was closed by its owner; the call can never be answered."""


class BusRefused(BusError):
    """The server understood the call and refuses it; repeating it does not help.

    Attributes:
        code: JetStream's error code, 0 where it gave none.
    """

    def __init__(self, what: str, code: int, description: str) -> None:
        super().__init__(f"NATS refused {what!r}: {description}" + (f" ({code})" if code else ""))
        self.code = code


class LoginRefused(BusRefused):
    """The server does not let this connection in: its credentials or certificates are not what it wants."""


class NotFound(BusRefused):
    """The stream, consumer, message or key does not exist."""


class UnsafeServer(BusError):
    """The server may lose acknowledged messages (its `sync_interval` is not `always`), or that cannot be verified."""


class StreamMismatch(BusError):
    """A JetStream object of the run exists with another configuration.

    Attributes:
        differences: setting -> (found, wanted).
    """

    def __init__(self, name: str, differences: dict[str, tuple[object, object]]) -> None:
        listed = "; ".join(f"{key} is {found!r}, wanted {wanted!r}" for key, (found, wanted) in differences.items())
        super().__init__(f"{name} exists with another configuration: {listed}")
        self.differences = differences


class StreamFull(BusError):
    """The stream's limit of bytes or messages is reached; nothing was stored. Room appears when it is trimmed."""


class PayloadTooLarge(BusError):
    """The payload exceeds the server's message limit; send it by claim check (`store_payload`)."""


class Fenced(BusError):
    """Somebody else wrote to the subject since; this writer must stop.

    Attributes:
        current: sequence of the subject's last message, 0 if it has none.
    """

    def __init__(self, subject: str, expected: int, current: int) -> None:
        super().__init__(f"{subject}: expected last sequence {expected}, found {current}")
        self.current = current


class SequenceGap(BusError):
    """Messages are missing from a stream that may not lose any.

    Attributes:
        missing: first and last missing sequence.
    """

    def __init__(self, stream: str, first: int, last: int) -> None:
        super().__init__(f"{stream}: sequences {first}..{last} are missing and were not purged")
        self.missing = (first, last)


class DigestMismatch(BusError, BadEntry):
    """A payload fetched by reference is not the one that was stored, or the envelope is malformed: the entry is bad,
    and not the bus."""


class KeyConflict(BusError):
    """The key was created or changed by somebody else.

    Attributes:
        key: the key.
    """

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"key {key!r}: {detail}")
        self.key = key
