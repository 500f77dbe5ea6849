"""The folder of the contracts compiles where there is no Bazel, for every language."""

import os
import pathlib
import subprocess

import pytest
from google.protobuf import descriptor_pb2 as pb


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[pb.FileDescriptorProto]:
    """What a plain protoc makes of the folder."""
    folder, out = pathlib.Path(os.environ["PENSTOCK_PROTO_FOLDER"]), tmp_path_factory.mktemp("out") / "out.binpb"
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.proto"))
    protoc = os.environ["PENSTOCK_PLAIN_PROTOC"]
    subprocess.run([protoc, f"-I{folder}", f"--descriptor_set_out={out}", *names], check=True)
    found = list(pb.FileDescriptorSet.FromString(out.read_bytes()).file)
    assert sorted(file.name for file in found) == names
    return found


def test_every_contract_and_what_it_imports_is_there(files: list[pb.FileDescriptorProto]) -> None:
    names = {file.name for file in files}
    assert {"penstock/reward/v1/reward.proto", "penstock/environment/v1/environment.proto"} <= names
    needed = {each for file in files for each in file.dependency if not each.startswith("google/protobuf/")}
    assert needed <= names


def test_every_contract_says_its_packages_in_go_and_java(files: list[pb.FileDescriptorProto]) -> None:
    ours = [file for file in files if file.name.startswith("penstock/")]
    for file in ours:
        area = file.package.split(".")[1]
        assert file.options.go_package == f"penstock/{area}/v1;{area}v1"
        assert file.options.java_package == file.package and file.options.java_multiple_files
