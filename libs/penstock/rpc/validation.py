"""Requests against the rules written in the protos, as a refusal."""

from __future__ import annotations

from google.protobuf.message import Message

from penstock.rpc.errors import invalid_argument
from penstock.rules.protos import violations

_MOST_VIOLATIONS = 32


def check(message: Message) -> None:
    """Raises INVALID_ARGUMENT (an `Abort`) naming the fields that break their rules, at most 32."""
    found = violations(message)
    if not found:
        return
    name = type(message).__name__
    raise invalid_argument(
        f"{name} breaks {len(found)} rule(s); first: {found[0].field}: {found[0].description}",
        *found[:_MOST_VIOLATIONS],
    )
