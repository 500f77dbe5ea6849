"""Tensors as bytes: manifests, checksums, chunks. No torch: buffers in, buffers out."""

from penstock.tensors.base_model import base_model
from penstock.tensors.framing import frame, unframe
from penstock.tensors.manifest import ManifestError, check_manifest, checksum, checksums, digest, make_manifest
from penstock.tensors.receiving import ChecksumError, Output, Overlapped, Receiver, check_file, check_sums
from penstock.tensors.weights import has_weights

__all__ = [
    "CHUNK_BYTES",
    "ChecksumError",
    "ManifestError",
    "Output",
    "Overlapped",
    "Receiver",
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
    "unframe",
]

# Fastest chunk of a raw stream (shared research, platform 2.1); the contract allows up to 2 MiB.
CHUNK_BYTES = 2**21
