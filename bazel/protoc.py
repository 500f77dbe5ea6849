"""protoc as packed in grpcio-tools, knowing the well-known types and protovalidate's rules without any registry.

buf/validate/validate.proto is published on a registry only; the protovalidate wheel carries it as a descriptor. It is
written out as a descriptor set, so that our protos import it like any other file and its Python module is generated
beside theirs.
"""

import pathlib
import sys
import tempfile

import grpc_tools
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb


def validate_descriptors() -> bytes:
    """A FileDescriptorSet of buf/validate/validate.proto and what it imports."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    files.file.add().ParseFromString(validate_pb._DESC.proto.to_binary())
    return files.SerializeToString()


def main(args: list[str]) -> int:
    # protoc.main() takes the well-known types from this folder, as the grpc_tools.protoc module does.
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.NamedTemporaryFile(suffix=".binpb") as descriptors:
        descriptors.write(validate_descriptors())
        descriptors.flush()
        return int(
            protoc.main(
                ["protoc", f"--descriptor_set_in={descriptors.name}", f"--proto_path={well_known}", *args],
            )
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
