"""Which model adapters belong to, told without reading all of it.

Adapters on another model than the one they were trained on would be applied without an error and draw nonsense. Names,
shapes and types differ between architectures, the ends of the tensors' bytes between checkpoints of one.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

ENDS = 4096
"""Bytes of either end of a tensor that are looked at; weights.proto has the same number."""


def base_model(folder: str | pathlib.Path) -> bytes:
    """SHA-256 of a Hugging Face directory's tensors as weights.proto defines it (Adapters.base).

    Raises OSError where a file is missing, ValueError where one is no safetensors file.
    """
    found: dict[str, tuple[pathlib.Path, int, dict[str, Any]]] = {}
    for path in _files(pathlib.Path(folder)):
        begin, header = _header(path)
        found |= {name: (path, begin, about) for name, about in header.items()}
    whole = hashlib.sha256(usedforsecurity=False)
    for name, (path, begin, about) in sorted(found.items()):
        whole.update(f"{name}|{about['dtype']}|{','.join(map(str, about['shape']))}|".encode())
        start, end = about["data_offsets"]
        with path.open("rb") as file:
            for at in (start, max(start, end - ENDS)):
                file.seek(begin + at)
                whole.update(file.read(min(ENDS, end - at)))
    return whole.digest()


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return [folder / "model.safetensors"]


def _header(path: pathlib.Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the tensors' bytes begin, and name -> dtype, shape, data_offsets."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= os.fstat(file.fileno()).st_size - 8:
            raise ValueError(f"{path} is no safetensors file")
        header: dict[str, dict[str, Any]] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return 8 + size, header
