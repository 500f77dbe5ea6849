"""Messages against the rules written in the protos (`buf.validate`), with every broken field named.

Protovalidate takes a Duration or Timestamp that its type forbids (nanoseconds of the other sign, seconds beyond the
year 9999), on which Python's conversions then fail or lie: those ranges are checked here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import protovalidate
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

_VALIDATOR = protovalidate.Validator()
# (least, most seconds, least nanoseconds), as the types' own protos state them.
_RANGES = {
    "google.protobuf.Duration": (-315_576_000_000, 315_576_000_000, -999_999_999),
    "google.protobuf.Timestamp": (-62_135_596_800, 253_402_300_799, 0),
}


@dataclass(frozen=True)
class Violation:
    """What is wrong with one field. `field` is its path: `items[3].id`."""

    field: str
    description: str
    rule: str = ""


def violations(message: Message) -> list[Violation]:
    """The fields that break their rules. A rule that cannot be worked out for a message (its numbers overflow) is
    broken by it."""
    try:
        broken = _VALIDATOR.collect_violations(message)
    except protovalidate.EvaluationError as error:
        return [Violation("", str(error), "penstock.evaluation")]
    found = [
        Violation(_path(each.proto.field.elements if each.proto.field else ()), each.proto.message, each.proto.rule_id)
        for each in broken
    ]
    return [*found, *_out_of_range(message, "")]


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


def _out_of_range(message: Message, path: str) -> Iterator[Violation]:
    """Durations and times outside the range of their type."""
    name = message.DESCRIPTOR.full_name
    if name in _RANGES:
        least, most, least_nanos = _RANGES[name]
        seconds, nanos = message.seconds, message.nanos  # type: ignore[attr-defined]
        signs = name.endswith("Duration") and seconds * nanos < 0
        if signs or not least <= seconds <= most or not least_nanos <= nanos <= 999_999_999:
            yield Violation(path, f"{seconds} s {nanos} ns is not a {name}", "penstock.range")
        return
    ranged = _ranged(message.DESCRIPTOR)
    for field, value in message.ListFields() if ranged else ():
        if field.number not in ranged:
            continue
        where = f"{path}.{field.name}" if path else field.name
        if not field.is_repeated:
            yield from _out_of_range(value, where)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for index, each in enumerate(value):
                yield from _out_of_range(each, f"{where}[{index}]")


@functools.cache
def _ranged(kind: Descriptor) -> frozenset[int]:
    """The fields of a type in which a Duration or Timestamp can be, by number."""
    return frozenset(f.number for f in kind.fields if f.message_type is not None and _may_hold_range(f.message_type))


@functools.cache
def _may_hold_range(kind: Descriptor) -> bool:
    """Whether a Duration or Timestamp can be in a message of this type; most types are thereby not walked at all."""
    seen, pending = set[str](), [kind]
    while pending:
        each = pending.pop()
        if each.full_name in _RANGES:
            return True
        if each.full_name not in seen:
            seen.add(each.full_name)
            pending += [f.message_type for f in each.fields if f.message_type is not None]
    return False
