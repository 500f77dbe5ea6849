"""The file of a retired version, which the next one may have: making room anew costs more than filling it."""

import logging
import pathlib

from services.weight_sync.disk.leases import alone

logger = logging.getLogger(__name__)


class Spare:
    """The one below a folder. leases: whether it can be told who has it open."""

    def __init__(self, directory: pathlib.Path, leases: bool) -> None:
        self._path, self._leases = directory / "spare.staging", leases

    def keep(self, path: pathlib.Path) -> None:
        """Takes the file of a retired version, if that can be: a commit does not fail for it."""
        try:
            path.replace(self._path)
        except OSError as error:
            logger.warning("the file of a retired version cannot be kept: %s", error)
            path.unlink(missing_ok=True)

    def give(self, path: pathlib.Path, size: int) -> None:
        """Gives the file the name `path`, if it fits, and nobody has it open or by another name; else it goes.

        Raises OSError.
        """
        try:
            self._path.rename(path)  # first: what is the spare may be another file after the check
        except FileNotFoundError:
            return
        if not self._fits(path, size):
            path.unlink()

    def _fits(self, path: pathlib.Path, size: int) -> bool:
        try:
            found = path.lstat()
            return self._leases and found.st_size == size and found.st_nlink == 1 and alone(path)
        except OSError as error:  # another user's, say
            logger.info("a retired version's file is not filled again: %s", error)
            return False
