"""Requests against the rules written in the protos (`buf.validate`), with every broken field named."""

from __future__ import annotations

from collections.abc import Iterable

import protovalidate
from google.protobuf.message import Message

from penstock.rpc.errors import Violation, invalid_argument

_VALIDATOR = protovalidate.Validator()
_MOST_VIOLATIONS = 32


def check(message: Message) -> None:
    """Raises INVALID_ARGUMENT (an `Abort`) naming the fields that break their rules, at most 32."""
    found = _VALIDATOR.collect_violations(message)
    if not found:
        return
    violations = [
        Violation(_path(each.proto.field.elements if each.proto.field else ()), each.proto.message, each.proto.rule_id)
        for each in found
    ]
    name = type(message).__name__
    raise invalid_argument(
        f"{name} breaks {len(violations)} rule(s); first: {violations[0].field}: {violations[0].description}",
        *violations[:_MOST_VIOLATIONS],
    )


def _path(elements: Iterable[object]) -> str:
    """`items[3].id` from a field path."""
    path = ""
    for element in elements:
        path += ("." if path else "") + str(getattr(element, "field_name", "?"))
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            value = getattr(subscript, "value", subscript)
            path += f"[{value}]"
    return path
