"""Runs untrusted Python where it can harm nothing: `run(program)` gives what it printed and how it ended.

The program has, whatever it tries (`run_test.py` lists what was tried):

- no network: a network namespace without interfaces, and no sockets at all;
- no files but the interpreter's own, read-only, and an empty `/tmp` that vanishes with it; no `/proc`, no `/sys`;
- no secrets: an empty environment, no open descriptors but the three standard ones;
- no sight of other processes, and no new ones; threads up to a limit;
- no rights: no capabilities, none to gain, and a seccomp filter (`syscalls.py`);
- bounds on time, CPU time, memory, disk, files and output.

It ends with everything it started when it is done, when a bound is crossed, and when this process dies (`jail.py`).

Invariant (`test_what_the_kernel_forbids_is_refused_not_run_without`): where the kernel does not grant a part of this,
`SandboxUnavailable` is raised and the program is not run. What it does not protect from: a hole in the kernel itself,
and timing (the program sees a clock and the machine's speed).
"""

from __future__ import annotations

import functools
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.environment.sandbox.syscalls import seccomp_filter

MIB = 1 << 20
_JAIL = Path(__file__).with_name("jail.py")
_GRACE_SECONDS = 10.0
_CHUNK = 1 << 16


class SandboxUnavailable(Exception):
    """The sandbox cannot be built here; nothing was run."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        wall_seconds: from its start to the end of everything.
        cpu_seconds: of all its threads.
        memory: bytes of address space; its files count extra.
        disk, files: bytes and number of files in /tmp.
        threads: at once; 1 where the kernel cannot count them (root inside a container without other user ids).
        output: bytes of both standard streams together.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 8
    memory: int = 512 * MIB
    disk: int = 16 * MIB
    files: int = 256
    threads: int = 16
    open_files: int = 64
    output: int = MIB // 4

    def resources(self) -> dict[str, int]:
        """RLIMIT name -> most."""
        return {
            "AS": self.memory,
            "CPU": self.cpu_seconds,
            "FSIZE": self.disk,
            "NOFILE": self.open_files,
            "NPROC": self.threads + 1,  # pid 1 may count as well
            "STACK": 8 * MIB,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "SIGPENDING": 64,
        }


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        ended: "exit" by itself or by a signal; "time" or "output" if it was killed for that.
        status: exit status, or minus the signal's number; None if it was killed by us.
        peak: most resident memory in bytes; 0 if it was killed by us.
    """

    ended: Literal["exit", "time", "output"]
    status: int | None
    stdout: str
    stderr: str
    cpu_seconds: float = 0.0
    peak: int = 0

    @property
    def succeeded(self) -> bool:
        """Ended by itself with status 0. Says nothing of what it did: it chooses its status."""
        return self.status == 0

    def why(self) -> str:
        """How it ended, in words; empty for success."""
        if self.ended != "exit" or self.status is None:
            return {"time": "it took too long", "output": "it wrote too much"}.get(self.ended, "it was killed")
        if self.status < 0:
            cpu = " (CPU time)" if self.status in (-signal.SIGXCPU, -signal.SIGKILL) else ""
            return f"it was ended by {signal.Signals(-self.status).name}{cpu}"
        return f"it ended with status {self.status}" if self.status else ""


def run(program: str, *, stdin: str = "", limits: Limits | None = None) -> Outcome:
    """Runs a Python program to its end. Blocks; may be called from several threads.

    Raises:
        SandboxUnavailable: see there.
    """
    limits = limits or Limits()
    spec_fd = os.memfd_create("specification")
    control_read, control = os.pipe()
    report, report_write = os.pipe()
    try:
        with os.fdopen(os.dup(spec_fd), "wb") as file:
            file.write(json.dumps(_specification(program, stdin, limits)).encode())
        os.lseek(spec_fd, 0, os.SEEK_SET)
        theirs = spec_fd, control_read, report_write
        process = subprocess.Popen(
            [_interpreter(), "-I", "-S", "-B", str(_JAIL), *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            pass_fds=theirs,
            start_new_session=True,
        )
    except BaseException:
        os.close(control)
        os.close(report)
        raise
    finally:
        for fd in (spec_fd, control_read, report_write):
            os.close(fd)
    with os.fdopen(report, "rb") as reports, os.fdopen(control, "wb") as holding, process:
        try:
            ended, stdout, stderr = _collect(process, holding, limits)
        finally:
            holding.close()
            _await_end(process)
        return _outcome([json.loads(line) for line in reports], ended, stdout, stderr)


@functools.cache
def check_sandbox() -> None:
    """Raises `SandboxUnavailable` if programs cannot be run here; remembers if they can."""
    done = run("print(6 * 7)")
    if done.stdout != "42\n":
        raise SandboxUnavailable(f"a first program failed: {done.why()} {done.stderr[-300:]}")


def _collect(process: subprocess.Popen[bytes], holding: Any, limits: Limits) -> tuple[str, bytes, bytes]:
    """Reads both streams to their end, which comes when the last process has ended; kills on a limit."""
    end = time.monotonic() + limits.wall_seconds
    ended, room, parts = "exit", limits.output, {"stdout": bytearray(), "stderr": bytearray()}
    with selectors.DefaultSelector() as selector:
        for name in parts:
            selector.register(getattr(process, name), selectors.EVENT_READ, name)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready and ended != "exit":
                raise SandboxUnavailable("a program could not be ended")
            if not ready:
                ended, end = "time", time.monotonic() + _GRACE_SECONDS
                holding.close()
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                parts[key.data] += chunk[:room]
                room -= min(room, len(chunk))
            if room == 0 and ended == "exit":
                ended, end = "output", time.monotonic() + _GRACE_SECONDS
                holding.close()
    return ended, bytes(parts["stdout"]), bytes(parts["stderr"])


def _await_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # its pid 1 dies by the parent-death signal


def _outcome(reports: list[dict[str, Any]], ended: Any, stdout: bytes, stderr: bytes) -> Outcome:
    texts = stdout.decode(errors="replace"), stderr.decode(errors="replace")
    for found in reports:
        if "refused" in found:
            raise SandboxUnavailable(f"no sandbox can be built here: {found['refused']}")
    if ended != "exit":
        return Outcome(ended, None, *texts)
    if not reports:
        raise SandboxUnavailable(f"the sandbox died: {texts[1][-300:]}")
    done = reports[0]
    return Outcome("exit", done["exit"], *texts, done["cpu"], done["peak"] * 1024)


def _specification(program: str, stdin: str, limits: Limits) -> dict[str, Any]:
    visible, hidden = _interpreter_files()
    return {
        "program": program,
        "input": stdin,
        "python": _interpreter(),
        "visible": visible,
        "hidden": hidden,
        "disk": limits.disk,
        "files": limits.files,
        "limits": limits.resources(),
        "filters": _filters(),
    }


@functools.cache
def _filters() -> dict[str, str]:
    if sys.platform != "linux":
        raise SandboxUnavailable(f"no sandbox on {sys.platform}")
    try:
        return {name: seccomp_filter(threads=name == "threads").hex() for name in ("threads", "no_threads")}
    except ValueError as error:
        raise SandboxUnavailable(f"no list of system calls for {platform.machine()}") from error


@functools.cache
def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


@functools.cache
def _interpreter_files() -> tuple[list[str], list[str]]:
    """What a bare interpreter needs: itself, the standard library, the C libraries; and what of it to hide."""
    prefix = Path(_interpreter()).parent.parent
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    shared = str(sysconfig.get_config_var("INSTSONAME") or "")
    architecture = str(sysconfig.get_config_var("MULTIARCH") or "")
    found = [_interpreter(), library, "/lib64", "/usr/lib64"]
    found += [f"{folder}/{architecture}" for folder in ("/lib", "/usr/lib")]
    if shared:
        found += [str(prefix / "lib" / shared), str(Path(sysconfig.get_config_var("LIBDIR") or "/none") / shared)]
    hidden = [f"{library}/site-packages", f"{library}/dist-packages", f"{library}/test"]
    return list(dict.fromkeys(path for path in found if os.path.exists(path))), list(filter(os.path.isdir, hidden))
