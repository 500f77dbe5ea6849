"""A folder of packages of a user's own, laid over an environment that a lock of ours pins.

    FOLDER/requirements.txt    what was asked for, a line each
    FOLDER/site/               those packages, and what they need beyond the environment

Nothing in it has a version of what the lock has: the environment stays as it was tested. What is in it is said by one
hash, which stands in the resolved recipe.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

_OF_THE_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""Files of a *.dist-info that say where and how it was installed, not what."""


@dataclass(frozen=True)
class Overlay:
    """The folder; it need not exist."""

    folder: pathlib.Path

    @property
    def site(self) -> pathlib.Path:
        """Where the packages are imported from."""
        return self.folder / "site"

    @property
    def requirements(self) -> list[str]:
        """What was asked for, as pip takes it."""
        path = self.folder / "requirements.txt"
        return path.read_text().splitlines() if path.is_file() else []

    def sha256(self) -> str:
        """Of the files' paths and bytes; the same packages, installed anywhere, have the same.

        Raises:
            OSError: a file cannot be read.
        """
        digest = hashlib.sha256()
        for file in sorted(self._files()):
            data = file.read_bytes()
            digest.update(f"{file.relative_to(self.site).as_posix()}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    def _files(self) -> Iterator[pathlib.Path]:
        for file in self.site.rglob("*"):
            of_installation = file.parent.suffix == ".dist-info" and file.name in _OF_THE_INSTALLATION
            if file.is_file() and "__pycache__" not in file.parts and not of_installation:
                yield file
