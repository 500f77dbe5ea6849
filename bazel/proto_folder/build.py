"""Lays out the contracts for tools that know no Bazel: python -m bazel.proto_folder.build --out FOLDER FILE=PATH…

The folder is an import root: `protoc -I FOLDER`, `buf build FOLDER` and proto-loader's `includeDirs: [FOLDER]` read it
as it is. What our files import from elsewhere, protovalidate's rules, lies in it too; the well-known types come with
each tool.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from bazel.proto_folder.source import source

HEADER = "// The rules of protovalidate (Apache License 2.0), printed from the descriptor in its Python package.\n"


def validate_source() -> str:
    """buf/validate/validate.proto."""
    file = FileDescriptorProto()
    validate_pb2.DESCRIPTOR.CopyToProto(file)
    return HEADER + source(file)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="folder that the paths are imported from")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("files", nargs="+", metavar="FILE=PATH")
    args = parser.parse_args(arguments)
    texts = {validate_pb2.DESCRIPTOR.name: validate_source()}
    for pair in args.files:
        file, _, path = pair.partition("=")
        texts[path.removeprefix(f"{args.root}/")] = pathlib.Path(file).read_text()
    for path, text in texts.items():
        (args.out / path).parent.mkdir(parents=True, exist_ok=True)
        (args.out / path).write_text(text)
    # One module with nothing outside it: buf asks no registry.
    (args.out / "buf.yaml").write_text("version: v2\nmodules:\n  - path: .\n")


if __name__ == "__main__":
    main(sys.argv[1:])
