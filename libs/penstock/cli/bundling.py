"""What of a model others need to read and write its text: configuration, tokenizer and chat template, without weights.

It travels in the run, so that a host that joins needs no directory of the model. Code that comes with a model is not
run anywhere, and is not sent.

Invariant (test name): what is unpacked is what was packed, and no file of another name.
"""

from __future__ import annotations

import io
import json
import pathlib
import re
import tarfile
from collections.abc import Iterator

NAMES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|merges\.txt|vocab\.txt|chat_template\.jinja|tokenizer\.model"
)
MOST_BYTES = 128 << 20
"""Of all files together."""


class NoBundle(ValueError):
    """There is nothing to send, or nothing that may be taken; the text says why."""


def packed(model: pathlib.Path) -> bytes:
    """The files of a model directory that travel; the same files make the same bytes. Raises NoBundle, OSError."""
    files = sorted(path for path in model.iterdir() if path.is_file() and NAMES.fullmatch(path.name))
    for path in files:
        if path.name in ("config.json", "tokenizer_config.json") and "auto_map" in json.loads(path.read_text()):
            raise NoBundle(f"{path} names code of its own, which is not sent to other hosts")
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        raise NoBundle(f"{model}: its configuration and tokenizer are larger than {MOST_BYTES >> 20} MiB")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in files:
            data = path.read_bytes()
            entry = tarfile.TarInfo(path.name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def unpack(data: bytes, folder: pathlib.Path) -> None:
    """Writes a bundle's files into a folder. Raises NoBundle for what `packed` would not have made, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _files(data):
        (folder / name).write_bytes(content)


def differing(data: bytes, model: pathlib.Path) -> list[str]:
    """Names of a bundle's files that a model directory has with another content. Raises NoBundle, OSError."""
    return [name for name, content in _files(data) if (own := model / name).is_file() and own.read_bytes() != content]


def _files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of what a bundle holds. Raises NoBundle."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isreg() and NAMES.fullmatch(entry.name) else None
                if content is None:
                    raise NoBundle(f"the run's model bundle holds {entry.name[:80]!r}, which is no file of a bundle")
                yield entry.name, content.read()
    except tarfile.TarError as error:
        raise NoBundle(f"the run's model bundle cannot be read: {error}") from error
