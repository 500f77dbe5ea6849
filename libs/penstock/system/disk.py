"""A full disk, told as such: by file, with the room that is left.

with writing(path):
    path.write_text(...)        # OSError "No space left on device" becomes DiskFull "disk full: runs/a/summary.json …"
"""

import errno
import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

# The disk is full, the quota is used up, or the process may not make files so large.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):
    """There is no room for a file; the text names it."""

    def __str__(self) -> str:
        """Without the number: the text has the cause."""
        return str(self.strerror)


def explained(path: pathlib.Path, error: OSError) -> DiskFull:
    """The error of a write to `path` in words that name the file and what its file system has left."""
    folder = next((each for each in (path, *path.absolute().parents) if each.is_dir()), pathlib.Path("/"))
    free = shutil.disk_usage(folder).free
    why = os.strerror(error.errno or errno.ENOSPC)
    return DiskFull(error.errno, f"disk full: {path} cannot be written, {free} bytes are free there ({why})")


@contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Raises DiskFull instead of the OSError that says so less clearly; other errors pass."""
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise explained(path, error) from error
