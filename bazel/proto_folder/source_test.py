"""What is printed compiles to the same descriptor, and what cannot be printed is refused."""

import os
import pathlib
import subprocess

import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2 as pb
from google.protobuf import duration_pb2

from bazel.proto_folder.source import source


def compiled(name: str, text: str, folder: pathlib.Path) -> pb.FileDescriptorProto:
    """By a protoc that knows nothing of ours."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    out = folder / "out.binpb"
    protoc = os.environ["PENSTOCK_PLAIN_PROTOC"]
    subprocess.run([protoc, f"-I{folder}", f"--descriptor_set_out={out}", name], check=True)
    (file,) = pb.FileDescriptorSet.FromString(out.read_bytes()).file
    file.ClearField("syntax")  # proto2 is said by saying nothing
    return file


def test_the_rules_of_protovalidate_are_printed_whole(tmp_path: pathlib.Path) -> None:
    file = pb.FileDescriptorProto()
    validate_pb2.DESCRIPTOR.CopyToProto(file)
    assert compiled(file.name, source(file), tmp_path) == file


def test_a_choice_between_two_plain_fields_keeps_its_place(tmp_path: pathlib.Path) -> None:
    kind = pb.FieldDescriptorProto.Type.TYPE_INT32
    message = pb.DescriptorProto(
        name="M", oneof_decl=[pb.OneofDescriptorProto(name="x"), pb.OneofDescriptorProto(name="y")]
    )
    for number, (name, choice) in enumerate({"a": None, "b": 0, "c": 0, "d": 1, "e": None}.items(), 1):
        field = message.field.add(name=name, json_name=name, number=number, type=kind, label=1)
        if choice is not None:
            field.oneof_index = choice
    file = pb.FileDescriptorProto(name="m.proto", package="m", message_type=[message])
    assert compiled(file.name, source(file), tmp_path) == file


def test_what_is_not_printed_is_refused() -> None:
    proto3 = pb.FileDescriptorProto()
    duration_pb2.DESCRIPTOR.CopyToProto(proto3)
    inner = pb.DescriptorProto(name="Outer", nested_type=[pb.DescriptorProto(name="Inner")])
    for file, said in (
        (proto3, "only proto2 files"),
        (pb.FileDescriptorProto(name="a", message_type=[inner]), "Outer: messages within messages"),
    ):
        with pytest.raises(ValueError, match=said):
            source(file)
