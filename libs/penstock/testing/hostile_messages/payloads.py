"""Hostile requests for one method, made from a good one: pure, and the same at every run.

Each is the good request with one thing wrong, so that no other broken rule hides what it does. Invariant (test name):
`must_refuse` is set for whatever the contract forbids: bytes that are no message, a broken rule of the proto, a
duration or time outside its type's range; and for what a contract must forbid: a float that is not finite, an enum
value that nobody defined.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError, Message

from penstock.rpc.errors import Abort
from penstock.rpc.validation import check

LONG = 1 << 20
UNKNOWN_FIELD = b"\xfa\xff\x07"  # number 16383, length-delimited: the length and the bytes follow
FLIPS = 40
_DEEP = 100_000
_SPANS = ("google.protobuf.Duration", "google.protobuf.Timestamp")

INTEGERS = {
    **dict.fromkeys((Field.CPPTYPE_INT32, Field.CPPTYPE_ENUM), (-(2**31), -1, 0, 999_983, 2**31 - 1)),
    Field.CPPTYPE_INT64: (-(2**63), -1, 0, 2**53 + 1, 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**31, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**31, 2**53 + 1, 2**63, 2**64 - 1),
}
FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 1e-38, 3e38)
STRINGS = (
    "",
    " ",
    "../../../../etc/passwd",
    "/etc/passwd",
    "C:\\x\\..\\y",
    "a\0b",
    "a\r\nb",
    "*",
    ">",
    "a.b.>",
    "\u202e\ufeff\U0001f4a9",
    "%s%n{0}${HOME}`id`",
    "'; DROP TABLE runs; --",
    "x" * LONG,
    "é" * LONG,
    "g/" + "9" * 5000,
    "[" * _DEEP,
    '{"a":' * _DEEP,
    '{"a": "\\ud800"}',
    '{"a": NaN, "b": 1e999}',
    '{"a": ' + "9" * 5000 + "}",
    "[]",
    "null",
)
BYTES = (b"", b"\0", b"\xff" * 7, b"\x80" * 16, bytes(LONG), b"\xff\xff\xff\x7f" * 4)
GARBAGE = (
    ("no protobuf", b"\xff\xff\xff\xff"),
    ("text", b"GET / HTTP/1.1\r\n\r\n"),
    ("a field that is longer than the message", b"\x0a\xff"),
    ("an endless varint", b"\x08" + b"\xff" * 64),
    ("groups without an end", b"\x0b" * _DEEP),
    ("field number 0", b"\x00\x01"),
    ("invalid UTF-8", b"\x0a\x02\xc3\x28"),
)


@dataclass(frozen=True)
class Attack:
    """One request: its bytes, and whether anything but a refusal is a defect."""

    name: str
    payload: bytes
    must_refuse: bool


def attacks(good: Message, seed: int = 0) -> Iterator[Attack]:
    """Everything that is sent in place of `good`, a valid request."""
    kind, whole = type(good), good.SerializeToString()
    for name, payload in GARBAGE:
        yield Attack(name, payload, _no_message(kind, payload))
    yield Attack("an empty request", b"", _broken(kind()))
    yield Attack("unknown fields", whole + UNKNOWN_FIELD + b"\x03abc", False)
    for cut in _cuts(kind, whole):
        yield Attack(f"cut after {cut} of {len(whole)} bytes", whole[:cut], True)
    for name, message in mutations(good):
        yield Attack(name, message.SerializeToString(), _broken(message))
    chance = random.Random(seed)
    for n in range(FLIPS):
        payload = _damaged(whole, chance)
        yield Attack(f"damage {n}", payload, unacceptable(kind, payload))


def mutations(good: Message) -> Iterator[tuple[str, Message]]:
    """`good` with one field, at any depth, absent, absurd, or repeated too often."""
    for path, owner in _messages(good, ()):
        for field in owner.DESCRIPTOR.fields:
            for label, change in _changes(field, owner):
                copy = type(good)()
                copy.CopyFrom(good)
                target = _follow(copy, path)
                try:
                    change(target)
                except ValueError:  # the library itself cannot hold it
                    continue
                where = ".".join(str(step) for step in (*path, field.name))
                yield f"{where} {label}", copy


def _messages(message: Message, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Message]]:
    """A message and the messages in it, with the way to each; of a repeated field the first."""
    yield path, message
    for field, value in message.ListFields():
        if field.cpp_type != Field.CPPTYPE_MESSAGE or _is_map(field):
            continue
        if field.is_repeated:
            yield from _messages(value[0], (*path, field.name, 0))
        else:
            yield from _messages(value, (*path, field.name))


def _follow(message: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        message = message[step] if isinstance(step, int) else getattr(message, step)
    return message


def _changes(field: Any, owner: Any) -> Iterator[tuple[str, Any]]:
    name = field.name
    if field.is_repeated:
        yield "empty", lambda m: m.ClearField(name)
        if len(getattr(owner, name)) and not _is_map(field):
            yield "repeated 5000 times", lambda m: getattr(m, name).extend([getattr(m, name)[0]] * 5000)
        if field.cpp_type != Field.CPPTYPE_MESSAGE:
            for value in _values(field):
                yield f"= [{_short(value)}]", lambda m, v=value: _replace(m, name, v)
        return
    if field.cpp_type == Field.CPPTYPE_MESSAGE:
        yield "unset", lambda m: m.ClearField(name)
        yield "empty", lambda m: (m.ClearField(name), getattr(m, name).SetInParent())
        if field.message_type.full_name in _SPANS:
            for seconds, nanos in ((2**63 - 1, 0), (-(2**63), 0), (-1, 0), (10**15, 0), (1, -5), (0, 2**31 - 1)):
                yield f"= {seconds} s {nanos} ns", lambda m, s=seconds, n=nanos: _span(getattr(m, name), s, n)
        return
    yield "unset", lambda m: m.ClearField(name)
    for value in _values(field):
        yield f"= {_short(value)}", lambda m, v=value: setattr(m, name, v)


def _values(field: Any) -> tuple[Any, ...]:
    if field.cpp_type in INTEGERS:
        return INTEGERS[field.cpp_type]
    if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return FLOATS
    if field.cpp_type == Field.CPPTYPE_BOOL:
        return (True, False)
    return BYTES if field.type == Field.TYPE_BYTES else STRINGS


def _replace(message: Any, name: str, value: Any) -> None:
    message.ClearField(name)
    getattr(message, name).append(value)


def _span(message: Any, seconds: int, nanos: int) -> None:
    message.seconds, message.nanos = seconds, nanos


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:24]}… ({len(value)} long)"


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _cuts(kind: type[Message], whole: bytes) -> list[int]:
    """Places where the bytes end inside a field: the first, the middle and the last of them."""
    cuts = [n for n in range(1, min(len(whole), 2000)) if _no_message(kind, whole[:n])]
    return sorted({cuts[0], cuts[len(cuts) // 2], cuts[-1]}) if cuts else []


def _damaged(whole: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(whole or chance.randbytes(24))
    for _ in range(chance.randint(1, 4)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def _no_message(kind: type[Message], payload: bytes) -> bool:
    try:
        kind.FromString(payload)
    except DecodeError:
        return True
    return False


def unacceptable(kind: type[Message], payload: bytes) -> bool:
    """Whether bytes are no message of a kind, or one that its contract forbids."""
    return _no_message(kind, payload) or _broken(kind.FromString(payload))


def _broken(message: Message) -> bool:
    """Whether the contract forbids a message."""
    if any(_absurd(each) for each in _all(message)):
        return True
    with contextlib.suppress(Abort):
        check(message)
        return False
    return True


def _all(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == Field.CPPTYPE_MESSAGE and not _is_map(field):
            for each in value if field.is_repeated else (value,):
                yield from _all(each)


def _absurd(message: Any) -> bool:
    for field, value in message.ListFields():
        values = value if field.is_repeated and not _is_map(field) else () if _is_map(field) else (value,)
        if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE) and not all(map(math.isfinite, values)):
            return True
        if field.cpp_type == Field.CPPTYPE_ENUM and any(v not in field.enum_type.values_by_number for v in values):
            return True
    return False
