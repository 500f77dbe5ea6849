"""Tensors as bytes: manifests, checksums, chunks. No torch: buffers in, buffers out."""

from penstock.tensors.base_model import base_model
from penstock.tensors.framing import frame, unframe
from penstock.tensors.manifest import (
    ManifestError,
    Row,
    check_manifest,
    checksum,
    checksums,
    digest,
    make_manifest,
    manifest_of,
)
from penstock.tensors.receiving import (
    Arrived,
    ChecksumError,
    NoTensor,
    Output,
    Overlapped,
    Receiver,
    TwiceError,
    check_file,
    check_sums,
)
from penstock.tensors.weights import has_weights

__all__ = [
    "CHUNK_BYTES",
    "Arrived",
    "ChecksumError",
    "ManifestError",
    "NoTensor",
    "Output",
    "Overlapped",
    "Receiver",
    "Row",
    "TwiceError",
    "base_model",
    "check_file",
    "check_manifest",
    "check_sums",
    "checksum",
    "checksums",
    "digest",
    "frame",
    "has_weights",
    "make_manifest",
    "manifest_of",
    "unframe",
]

# Fastest chunk of a raw stream (shared research, platform 2.1); the contract allows up to 2 MiB.
CHUNK_BYTES = 2**21
