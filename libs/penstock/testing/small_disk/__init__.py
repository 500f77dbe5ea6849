"""Runs a piece of a test in a process for which one folder is a tiny file system: a real full disk, for any user.

    run_on_small_disk("services.weight_sync.full_disk_test:scenario", tmp_path / "disk", 8 << 20)

The process takes a user and mount namespace of its own and mounts a tmpfs there: writes beyond it end in ENOSPC, also
those of its children, and it all vanishes with the process. Where a kernel forbids such namespaces, no file of the
process can grow beyond half the size instead (RLIMIT_FSIZE, EFBIG), so that the test never passes by being skipped.
"""

import pathlib
import subprocess
import sys

_SHIM = """\
import ctypes, os, resource, sys
folder, size = sys.argv[1], int(sys.argv[2])
uid, gid, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
try:
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        open(f"/proc/self/{name}", "w").write(text)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % size):
        raise OSError(ctypes.get_errno(), "mount")
except OSError as error:
    print(f"no file system of our own here ({error}): files are limited instead", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3], sys.argv[4], folder])
"""

_CALL = """\
import asyncio, importlib, inspect, os, pathlib, sys
module, _, name = sys.argv[1].partition(":")
made = getattr(importlib.import_module(module), name)(pathlib.Path(sys.argv[2]))
if inspect.iscoroutine(made):
    asyncio.run(made)
sys.stdout.flush()
os._exit(0)  # a library's thread that the full disk has killed may be saying so: an orderly end would abort over it
"""


def run_on_small_disk(target: str, folder: pathlib.Path, size: int, *, seconds: float = 120) -> str:
    """Calls `target` ("module:function", plain or async) with `folder`, which has room for `size` bytes.

    Returns what it wrote to its standard streams; raises AssertionError with that if it failed or took too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _SHIM, str(folder), str(size), _CALL, target]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{target} did not end within {seconds:g} s:\n{error.stdout!r}") from error
    assert done.returncode == 0, f"{target} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def fill(folder: pathlib.Path, leave: int = 0) -> pathlib.Path:
    """Takes all room of a small disk but `leave` bytes; unlink the file it returns to give it back."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return path
