"""Leases of the kernel on files of the store: they tell who else has one open, in whatever process or container.

A read lease is had while nobody has the file open for writing, a write lease while nobody has it open at all; mapped is
open. Some network file systems have none.
"""

import fcntl
import os
import pathlib
import signal


def lease(descriptor: int, kind: int) -> bool:
    """Takes a lease, fcntl.F_RDLCK or F_WRLCK; whether it was to be had. Raises OSError where there are none."""
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # which nobody minds: the lease is looked at instead
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
    except BlockingIOError:
        return False
    return True


def can_lease(directory: pathlib.Path) -> bool:
    """Whether there are leases on files of a folder."""
    path = directory / "lease.staging"
    try:
        path.touch()
        return alone(path)
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)


def alone(path: pathlib.Path) -> bool:
    """Whether nobody has a file open. Raises OSError where that cannot be known."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return lease(descriptor, fcntl.F_WRLCK)
    finally:
        os.close(descriptor)  # and the lease ends
