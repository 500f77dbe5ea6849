"""Messages that are almost right, made from a descriptor and a seed: pure, and the same for the same seed.

A request that is wholly random is refused at the door. So a field mostly gets what the servers themselves have said
under its name (versions, episodes, groups, names), then something of the kit's hostile values, then chance; and a
message that was made is damaged in a few places only.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from penstock.testing.hostile_messages.payloads import BYTES, FLOATS, INTEGERS, STRINGS

REMEMBERED = 64
DEEPEST = 6
SHORT = [text for text in STRINGS if len(text) < 1000]


class Maker:
    """Makes messages; `chance` decides everything."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self._seen: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)

    def remember(self, message: Message) -> None:
        """Takes the values of a message for those of later fields of the same name and type."""
        for field, value in message.ListFields():
            for each in value if field.is_repeated and not _is_map(field) else () if _is_map(field) else (value,):
                known = self._seen[field.name, field.cpp_type]
                if len(known) < REMEMBERED:
                    known.append(each)
                else:
                    known[self.chance.randrange(REMEMBERED)] = each
                if isinstance(each, Message):
                    self.remember(each)

    def message(self, kind: Any, depth: int = 0) -> Message:
        """A message of a kind (its descriptor), with most of its fields set."""
        made: Any = GetMessageClass(kind)()
        for field in kind.fields:
            if self.chance.random() < 0.2 or (depth >= DEEPEST and field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE):
                continue
            try:
                self._set(made, field, depth)
            except (ValueError, TypeError):  # the library itself cannot hold it
                continue
        return made

    def payload(self, good: Message) -> bytes:
        """The bytes of a message, changed in a few places: a field at any depth, or bytes."""
        changed = type(good)()
        changed.CopyFrom(good)
        for _ in range(self.chance.randint(0, 3)):
            self._change(changed)
        whole = bytearray(changed.SerializeToString())
        if whole and self.chance.random() < 0.2:
            for _ in range(self.chance.randint(1, 4)):
                whole[self.chance.randrange(len(whole))] = self.chance.randrange(256)
        if whole and self.chance.random() < 0.05:
            del whole[self.chance.randrange(len(whole)) :]
        return bytes(whole)

    def _change(self, message: Any) -> None:
        """Another value for one field of a message or of one in it."""
        while True:
            fields = message.DESCRIPTOR.fields
            if not fields:
                return
            field = self.chance.choice(fields)
            inner = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not field.is_repeated
            if inner and message.HasField(field.name) and self.chance.random() < 0.8:
                message = getattr(message, field.name)
                continue
            try:
                message.ClearField(field.name)
                if self.chance.random() < 0.8:
                    self._set(message, field, DEEPEST - 1)
            except (ValueError, TypeError):
                pass
            return

    def _set(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if _is_map(field):
            entry = self.message(field.message_type, depth + 1)
            self._into_map(getattr(message, field.name), entry)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(self.chance.choice((0, 1, 1, 1, 2, 5))):
                values.append(self._value(field, depth))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(self._value(field, depth))
        else:
            setattr(message, field.name, self._value(field, depth))

    @staticmethod
    def _into_map(entries: Any, entry: Any) -> None:
        if isinstance(entry.value, Message):
            entries[entry.key].CopyFrom(entry.value)
        else:
            entries[entry.key] = entry.value

    def _value(self, field: Any, depth: int) -> Any:
        known = self._seen.get((field.name, field.cpp_type))
        if known and self.chance.random() < 0.6:
            return self.chance.choice(known)
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            return self.message(field.message_type, depth + 1)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self.chance.random() < 0.5
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and self.chance.random() < 0.8:
            return self.chance.choice(field.enum_type.values).number
        return self.chance.choice(self._hostile(field))

    def _hostile(self, field: FieldDescriptor) -> Sequence[Any]:
        if field.cpp_type in INTEGERS:
            return (*INTEGERS[field.cpp_type], self.chance.randrange(10), self.chance.randrange(10))
        if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return (*FLOATS, self.chance.random())
        if field.type == FieldDescriptor.TYPE_BYTES:
            return (*BYTES, self.chance.randbytes(self.chance.randrange(64)))
        return STRINGS if self.chance.random() < 0.02 else SHORT


def parsed(kind: Any, payload: bytes) -> Message | None:
    """The message of a kind (its descriptor) that bytes are, if they are one."""
    try:
        message: Message = GetMessageClass(kind).FromString(payload)
        return message
    except DecodeError:
        return None


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)
