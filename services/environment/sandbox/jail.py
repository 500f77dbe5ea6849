"""The program that builds the sandbox around one untrusted program and runs it. Started by `run.py`, by its path.

    host ── jail (host's namespaces) ── pid 1 (new ones: builds the file system) ── the program (no rights)

The host speaks through three descriptors: the specification (JSON), `control`, and `report`. When the host closes
`control`, by will or by dying, the jail kills pid 1, and the kernel kills with it everything in its process namespace;
if the jail itself is killed, pid 1 dies by its parent-death signal. When the jail has ended, nothing of it is left.

Only the standard library is imported, and nothing of ours: this runs with `-I -S`, before anything untrusted does. So
prctl is called here by hand, beside penstock.system.parent_death.
What the kernel forbids is reported as `refused`; there is no way through this file that runs the program with less.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
from typing import Any, NoReturn

_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_MOUNT_SETATTR = 442
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_AT_RECURSIVE, _MNT_DETACH = 0x8000, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 28, 38, 47
_NO_ROOT_LOCKED = 0b11101111  # every securebit and its lock but KEEP_CAPS
_INSIDE, _NOBODY = 1000, 65534
_ROOT = "/proc"  # where the new root is built: the one folder under which nothing lies that is to be bound
_MACHINE = os.uname().machine
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The kernel forbids a part of the sandbox."""


def _check(result: int, what: str) -> int:
    if result < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _syscall(what: str, number: int, *arguments: Any) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def _prctl(what: str, option: int, *arguments: Any) -> None:
    padded = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), what)


def _report(fd: int, **fields: Any) -> None:
    os.write(fd, json.dumps(fields).encode() + b"\n")


def main() -> int:
    """The jail: clones pid 1, gives it its user ids, waits for it or for the host's end."""
    spec_fd, control, report = (int(argument) for argument in sys.argv[1:4])
    with os.fdopen(spec_fd, "rb") as file:
        spec = json.load(file)
    go_read, go_write = os.pipe()
    for fd in (control, report):
        os.set_inheritable(fd, False)
    try:
        flags = ctypes.c_ulong(_NAMESPACES | signal.SIGCHLD)
        zero = ctypes.c_ulong(0)
        child = _syscall("clone with new namespaces", _SYS_CLONE[_MACHINE], flags, zero, zero, zero, zero)
        if child == 0:
            os.close(go_write)
            os.close(control)
            _first(spec, go_read, report)
        os.close(go_read)
        ended = os.pidfd_open(child)
        spec["second_id"] = _map_ids(child)
        os.write(go_write, b"2" if spec["second_id"] else b"1")
    except (Refused, OSError, KeyError) as error:
        _report(report, refused=f"{type(error).__name__} {error}")
        return 1
    ready, _, _ = select.select([control, ended], [], [])
    if ended not in ready:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    os.waitpid(child, 0)
    return 0


def _map_ids(child: int) -> bool:
    """Gives pid 1 its ids: two where we are root, so that the program is not; else our own. Whether it has two."""
    ids = os.geteuid(), os.getegid()
    if ids[0] == 0:
        try:
            for name, own in zip(("uid_map", "gid_map"), ids, strict=True):
                _write(f"/proc/{child}/{name}", f"0 {own} 1\n{_INSIDE} {_NOBODY} 1\n")
            return True
        except PermissionError:
            pass  # a root of a namespace that has no other ids
    _write(f"/proc/{child}/setgroups", "deny")
    for name, own in zip(("uid_map", "gid_map"), ids, strict=True):
        _write(f"/proc/{child}/{name}", f"{_INSIDE} {own} 1\n")
    return False


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _first(spec: dict[str, Any], go: int, report: int) -> NoReturn:
    """Pid 1: builds the file system, starts the program, reports how it ended. Never returns."""
    try:
        _prctl("parent-death signal", _PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # without handlers, pid 1 cannot be signalled by the program
        ids = os.read(go, 1)
        if not ids:
            os._exit(1)  # the jail is dead
        os.close(go)
        os.setsid()
        _build_root(spec)
        _prctl("undumpable", _PR_SET_DUMPABLE, 0)
        program = os.fork()
        if program == 0:
            _become(spec, two_ids=ids == b"2")
            null = os.open("/input", os.O_RDONLY)
            os.dup2(null, 0)
            environment = {"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PATH": ""}
            os.execve(spec["python"], [spec["python"], "-I", "-S", "-B", "-X", "utf8", "/program.py"], environment)
        os.closerange(0, 3)
        status = None
        while status is None:
            pid, found = os.wait()
            status = found if pid == program else None
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        _report(report, exit=os.waitstatus_to_exitcode(status), cpu=used.ru_utime + used.ru_stime, peak=used.ru_maxrss)
    except BaseException as error:  # the process boundary: everything is told to the host
        _report(report, refused=f"{type(error).__name__} {error}")
    os._exit(0)


def _build_root(spec: dict[str, Any]) -> None:
    """A root with the interpreter, read-only, and `/tmp`; the old one is gone afterwards."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    room = len(spec["program"]) * 4 + len(spec["input"]) * 4 + (1 << 20)
    _mount("none", _ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={room},mode=755")
    for path in spec["visible"]:
        _bind(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    for path in spec["hidden"]:
        _mount("none", _ROOT + path, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1, "size=4k,mode=755")
    for name in ("null", "zero", "urandom", "random"):
        _bind(f"/dev/{name}", _ATTR_NOSUID | _ATTR_NOEXEC)
    os.mkdir(_ROOT + "/tmp")
    sizes = f"size={spec['disk']},nr_inodes={spec['files']},mode=1777"
    _mount("none", _ROOT + "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, sizes)
    for name, text in (("program.py", spec["program"]), ("input", spec["input"])):
        with open(f"{_ROOT}/{name}", "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(text)
    _set_attributes(_ROOT, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0)
    os.chdir(_ROOT)
    _syscall("pivot_root", _SYS_PIVOT_ROOT[_MACHINE], b".", b".")
    _check(_libc.umount2(b".", _MNT_DETACH), "leaving the old root")
    os.chdir("/tmp")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), f"mount on {target}")


def _bind(path: str, attributes: int) -> None:
    target = _ROOT + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    elif os.path.exists(target):
        return  # in a folder that is bound already
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(path, target, None, _MS_BIND | _MS_REC)
    _set_attributes(target, attributes, _AT_RECURSIVE)


def _set_attributes(target: str, attributes: int, flags: int) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    where = ctypes.c_int(-100), os.fsencode(target), ctypes.c_uint(flags), wanted, ctypes.c_size_t(32)
    _syscall(f"mount_setattr on {target}", _SYS_MOUNT_SETATTR, *where)


def _become(spec: dict[str, Any], *, two_ids: bool) -> None:
    """Gives up every right for good: ids, capabilities, resources, system calls."""
    os.setsid()
    for cap in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(cap), *[ctypes.c_ulong(0)] * 3)  # EINVAL past the last one
    _prctl("securebits", _PR_SET_SECUREBITS, _NO_ROOT_LOCKED)
    if two_ids:
        os.setgroups([])
        os.setresgid(_INSIDE, _INSIDE, _INSIDE)
        os.setresuid(_INSIDE, _INSIDE, _INSIDE)
    _prctl("ambient capabilities", _PR_CAP_AMBIENT, 4)
    header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _syscall("capset", _SYS_CAPSET[_MACHINE], header, empty)
    _prctl("no new privileges", _PR_SET_NO_NEW_PRIVS, 1)
    for name, most in spec["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    filters = spec["filters"]["threads" if _threads_are_counted(spec["limits"]["NPROC"]) else "no_threads"]
    _install(bytes.fromhex(filters))


def _threads_are_counted(most: int) -> bool:
    """Whether the kernel enforces RLIMIT_NPROC here: not for a process that is root outside."""
    resource.setrlimit(resource.RLIMIT_NPROC, (1, most))
    try:
        child = os.fork()
    except BlockingIOError:
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return False


def _install(code: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    program = Program(len(code) // 8, code)
    _prctl("seccomp", _PR_SET_SECCOMP, 2, ctypes.byref(program))


if __name__ == "__main__":
    sys.exit(main())
