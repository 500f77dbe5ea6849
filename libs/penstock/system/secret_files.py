"""Secrets in files that their owner alone may read: never on a command line, in a log or in a recipe."""

import os
import pathlib
import secrets


def made_secret(path: pathlib.Path) -> str:
    """The secret in `path`, which is made with the first call: 256 random bits as text, mode 0600, in a folder of mode
    0700. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        partial.rename(path)
    return path.read_text().strip()
