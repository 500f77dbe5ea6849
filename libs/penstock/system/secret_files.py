"""Secrets in files that their owner alone may read: never on a command line, in a log or in a recipe."""

import os
import pathlib
import secrets


def made_secret(path: pathlib.Path, *, prefix: str = "") -> str:
    """The secret in `path`, which is made with the first call: `prefix` and 256 random bits as text, as `write_secret`.

    Raises OSError."""
    if not path.exists():
        write_secret(path, f"{prefix}{secrets.token_urlsafe(32)}\n")
    return path.read_text().strip()


def write_secret(path: pathlib.Path, text: str) -> None:
    """Writes a file of mode 0600 in a folder of mode 0700, whole or not at all. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
