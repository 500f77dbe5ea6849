"""A .proto file printed from its descriptor: what compiles to the same descriptor again, comments apart.

protovalidate's rules reach Python as a descriptor, without their source; other languages' tools want the source.
Printed is what that file has: messages and enums at the top, extensions, reservations, options of files and fields.
Anything else is refused rather than left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

LABELS = {1: "optional", 2: "required", 3: "repeated"}
MAX_FIELD, MAX_ENUM = (1 << 29) - 1, (1 << 31) - 1


def source(file: FileDescriptorProto) -> str:
    """The text of a proto2 file.

    Raises:
        ValueError: it has something that is not printed.
    """
    if file.syntax not in ("", "proto2") or file.service or file.public_dependency:
        raise ValueError(f"{file.name}: only proto2 files without services and public imports are printed")
    lines = ['syntax = "proto2";', "", f"package {file.package};", ""]
    lines += [f"import {json.dumps(name)};" for name in file.dependency] + [""]
    lines += [f"option {option};" for option in _options(file.options)] + [""]
    for extension in file.extension:
        lines += [f"extend {extension.extendee} {{", f"  {_field(extension)}", "}", ""]
    for enum in file.enum_type:
        lines += [*_enum(enum), ""]
    for message in file.message_type:
        lines += [*_message(message), ""]
    return "\n".join(lines)


def _message(message: DescriptorProto) -> Iterator[str]:
    if message.nested_type or message.enum_type or message.extension or message.HasField("options"):
        raise ValueError(f"{message.name}: messages within messages and options of messages are not printed")
    yield f"message {message.name} {{"
    choice: int | None = None
    for field in message.field:
        inside = field.oneof_index if field.HasField("oneof_index") else None
        if choice not in (inside, None):
            yield "  }"
        if inside not in (choice, None):
            yield f"  oneof {message.oneof_decl[field.oneof_index].name} {{"
        choice = inside
        yield f"    {_field(field)}" if inside is not None else f"  {_field(field)}"
    if choice is not None:
        yield "  }"
    ends = [(each.start, each.end - 1) for each in message.extension_range]
    yield from (f"  extensions {_range(*each, most=MAX_FIELD)};" for each in ends)
    yield from _reserved(
        [(each.start, each.end - 1) for each in message.reserved_range], message.reserved_name, MAX_FIELD
    )
    yield "}"


def _enum(enum: EnumDescriptorProto) -> Iterator[str]:
    if enum.HasField("options"):
        raise ValueError(f"{enum.name}: options of enums are not printed")
    yield f"enum {enum.name} {{"
    yield from (f"  {value.name} = {value.number};" for value in enum.value)
    yield from _reserved([(each.start, each.end) for each in enum.reserved_range], enum.reserved_name, MAX_ENUM)
    yield "}"


def _field(field: FieldDescriptorProto) -> str:
    if field.HasField("default_value") or field.type == FieldDescriptorProto.TYPE_GROUP:
        raise ValueError(f"{field.name}: default values and groups are not printed")
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = "" if field.HasField("oneof_index") else LABELS[field.label] + " "
    options = ", ".join(_options(field.options))
    return f"{label}{kind} {field.name} = {field.number}{f' [{options}]' if options else ''};"


def _options(options: Any) -> Iterator[str]:
    """`name = value` of each that is set; an extension's name in brackets."""
    for field, value in options.ListFields():
        name = f"({field.full_name})" if field.is_extension else field.name
        if field.message_type is not None:
            yield f"{name} = {{ {text_format.MessageToString(value, as_one_line=True)} }}"
        elif isinstance(value, bool | str):
            yield f"{name} = {json.dumps(value)}"
        else:
            raise ValueError(f"{field.full_name}: options that are neither text, boolean nor message are not printed")


def _reserved(ranges: Sequence[tuple[int, int]], names: Sequence[str], most: int) -> Iterator[str]:
    if ranges:
        yield f"  reserved {', '.join(_range(*each, most=most) for each in ranges)};"
    if names:
        yield f"  reserved {', '.join(json.dumps(name) for name in names)};"


def _range(start: int, end: int, most: int) -> str:
    return str(start) if start == end else f"{start} to {'max' if end == most else end}"
