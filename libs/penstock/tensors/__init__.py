"""Tensors as bytes: manifests, checksums, chunks. No torch: buffers in, buffers out."""

from penstock.tensors.framing import frame, unframe
from penstock.tensors.manifest import ManifestError, check_manifest, checksum, digest, make_manifest
from penstock.tensors.receiving import ChecksumError, Receiver

__all__ = [
    "CHUNK_BYTES",
    "ChecksumError",
    "ManifestError",
    "Receiver",
    "check_manifest",
    "checksum",
    "digest",
    "frame",
    "make_manifest",
    "unframe",
]

# Fastest chunk of a raw stream (shared research, platform 2.1); the contract allows up to 2 MiB.
CHUNK_BYTES = 2**20
