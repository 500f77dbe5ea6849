"""Leases of the kernel on files of the store: they tell who else has one open, in whatever process or container.

A read lease is had while nobody has the file open for writing, a write lease while nobody has it open at all; mapped is
open. Some network file systems have none, and those of overlayfs, a container's own file system, do not see a map whose
descriptor is closed: there `can_lease` says no.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import pathlib
import signal
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def lease(descriptor: int, kind: int) -> bool:
    """Takes a lease, fcntl.F_RDLCK or F_WRLCK; whether it was to be had. Raises OSError where there are none."""
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # which nobody minds: the lease is looked at instead
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
    except BlockingIOError:
        return False
    return True


def can_lease(directory: pathlib.Path) -> bool:
    """Whether there are leases on files of a folder, and they know of whoever has one only mapped."""
    path = directory / "lease.staging"
    try:
        path.touch()
        if not alone(path):
            return False
        with _only_mapped(path, os.O_RDONLY, mmap.PROT_READ):
            if alone(path):
                return False
        with _only_mapped(path, os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE):
            return not alone(path) and not _leased(path, os.O_RDONLY, fcntl.F_RDLCK)
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)


def alone(path: pathlib.Path) -> bool:
    """Whether nobody has a file open. Raises OSError where that cannot be known."""
    return _leased(path, os.O_RDWR, fcntl.F_WRLCK)


def _leased(path: pathlib.Path, flags: int, kind: int) -> bool:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return lease(descriptor, kind)
    finally:
        os.close(descriptor)  # and the lease ends


@contextlib.contextmanager
def _only_mapped(path: pathlib.Path, flags: int, protection: int) -> Iterator[None]:
    """A file is mapped in the block, and not open beside: Python's own map would keep it open. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        at = _libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "a file cannot be mapped")
    try:
        yield
    finally:
        _libc.munmap(at, mmap.PAGESIZE)
