"""The sandbox against programs that try to get out, to stay, or to take more than they were given.

Each attempt prints ESCAPED if it gets anywhere, and does no harm even then: it opens without writing, signals with 0,
stops at a number. Whoever breaks the sandbox must lose a test by it and not the machine. After each one the host is
looked at: its file is unchanged, no process is left (this process adopts orphans, so that it would see them), and the
next program runs as if nothing had been.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.environment.sandbox.run import MIB, Limits, Outcome, SandboxUnavailable, check_sandbox, run
from services.environment.sandbox.syscalls import REFUSED, seccomp_filter

SMALL = Limits(wall_seconds=20, cpu_seconds=3, memory=256 * MIB, disk=4 * MIB, files=64, threads=8, output=64 << 10)
SECRET = "a-secret-of-the-host"
PRELUDE = """
import ctypes, errno, os, platform, signal, socket, stat, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(action, what=""):
    try:
        result = action()
    except (NameError, TypeError, AttributeError, UnicodeError) as error:
        print("ESCAPED? the attempt itself is wrong:", what, error)
    except BaseException as error:
        print("contained", what, type(error).__name__, error, flush=True)
    else:
        print("ESCAPED", what, repr(result)[:200], flush=True)
def syscall(number, *arguments):
    arguments = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""

ESCAPES = {
    "read the host's files": """
        for path in (CANARY, REPOSITORY, "/etc/passwd", "/etc/shadow", "/root/.ssh", "/home", "/var", "/work", "/run"):
            attempt(lambda: os.stat(path), path)
            attempt(lambda: open(path).read(), path)
        """,
    "read them through links and dots": """
        for i, path in enumerate((CANARY, "/etc/passwd", "/proc/1/root/etc/passwd", "/proc/self/exe", "/..")):
            os.symlink(path, f"/tmp/{i}")
            attempt(lambda: open(f"/tmp/{i}" + ("/etc/passwd" if path == "/.." else "")).read(), path)
            attempt(lambda: open(f"/tmp/../../../../../..{path}/etc/passwd").read(), path)
            attempt(lambda: os.link(path, f"/tmp/h{i}"), path)
        """,
    "see what is above the root": """
        attempt(lambda: os.chroot("/tmp"))
        attempt(lambda: os.open("/proc/self/cwd", os.O_RDONLY))
        up = os.open("/", os.O_RDONLY)
        for _ in range(9):
            up = os.open("..", os.O_RDONLY, dir_fd=up)
        attempt(lambda: os.stat("etc", dir_fd=up))
        attempt(lambda: os.stat("work", dir_fd=up))
        """,
    "write outside of /tmp": """
        import json
        for path in (CANARY, "/program.py", "/input", json.__file__, sys.executable):
            attempt(lambda: os.open(path, os.O_WRONLY), path)
            attempt(lambda: os.chmod(path, os.stat(path).st_mode), path)
            attempt(lambda: os.utime(path), path)
        def made(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.remove(path)
            return path
        for folder in ("", "/usr", "/usr/lib", "/lib64", "/dev", os.path.dirname(json.__file__)):
            attempt(lambda: made(folder + "/penstock-was-here"), folder)
            attempt(lambda: os.rename("/tmp", folder + "/penstock-was-here"), folder)
        """,
    "make devices and mounts": """
        attempt(lambda: os.mknod("/tmp/mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
        for path in ("/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/ptmx", "/dev/fuse", "/dev/kvm", "/dev/shm/x"):
            attempt(lambda: open(path, "a+"), path)
        attempt(lambda: 1 / (libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0))
        attempt(lambda: 1 / (libc.umount2(b"/tmp", 2) == 0))
        """,
    "open sockets": """
        for family in "AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK":
            family = getattr(socket, family)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                attempt(lambda: socket.socket(family, kind), f"{family} {kind}")
        attempt(lambda: socket.create_connection(("127.0.0.1", PORT), 1))
        attempt(lambda: socket.create_connection(("::1", PORT), 1))
        attempt(lambda: socket.getaddrinfo("example.com", 80))
        def unix():
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(SOCKET)
        attempt(unix)
        """,
    "find the host's secrets": """
        attempt(lambda: 1 / (SECRET_NAME in os.environ))
        attempt(lambda: 1 / (len(os.environ) > 5))
        for path in ("self/environ", "1/environ", f"{HOST}/environ", f"{HOST}/mem", "1/fd/1"):
            attempt(lambda: open(f"/proc/{path}", "rb").read(), path)
        for fd in range(3, 1024):
            try:
                os.fstat(fd)
                print("ESCAPED: open descriptor", fd)
            except OSError:
                pass
        """,
    "see other processes": """
        attempt(lambda: os.listdir("/proc"))
        attempt(lambda: os.listdir("/sys"))
        attempt(lambda: os.kill(HOST, 0))
        attempt(lambda: os.pidfd_open(HOST))
        attempt(lambda: os.pidfd_open(1))
        seen = [pid for pid in range(3, 5000) if not libc.kill(pid, 0)]
        attempt(lambda: seen[0])
        """,
    "signal the host and pid 1": """
        attempt(lambda: os.kill(HOST, 0))
        attempt(lambda: os.killpg(HOST, 0))
        if os.getpid() != 2 or os.getppid() != 1:
            print("ESCAPED: the process ids are the host's")
            sys.exit()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP):
            libc.kill(1, number)
        attempt(lambda: os.kill(-1, 0))
        """,
    "get into pid 1 with ptrace": """
        PTRACE_ATTACH = 16
        attempt(lambda: 1 / (libc.ptrace(PTRACE_ATTACH, 1, 0, 0) == 0))
        attempt(lambda: 1 / (libc.ptrace(0, 0, 0, 0) == 0))
        buffer = ctypes.create_string_buffer(64)
        vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 64)
        remote = (ctypes.c_ulong * 2)(id(buffer), 64)
        attempt(lambda: 1 / (libc.process_vm_readv(1, vector, 1, remote, 1, 0) > 0))
        """,
    "call what is refused": """
        def refused(number, error, *arguments):
            try:
                syscall(number, *arguments)
            except OSError as caught:
                if caught.errno == error:
                    raise
        for name, numbers in REFUSED.items():
            number = numbers[["x86_64", "aarch64"].index(platform.machine())]
            if number is not None:
                attempt(lambda: refused(number, errno.EPERM, 0, 0, 0, 0, 0, 0), name)
        for number in (424, 425, 428, 430, 434, 435, 437, 438, 442, 447, 460):
            attempt(lambda: refused(number, errno.ENOSYS, 0, 0, 0, 0, 0, 0), number)
        for flags in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x80, 0x00000100 | 17, 17):
            clone = 56 if platform.machine() == "x86_64" else 220
            attempt(lambda: refused(clone, errno.EPERM, flags, 0, 0, 0, 0), flags)
        """,
    "become root": """
        if os.getuid() == 0 or os.geteuid() == 0:
            print("ESCAPED: is root")
        attempt(lambda: os.setuid(0))
        attempt(lambda: os.setgid(0))
        attempt(lambda: os.setresuid(0, 0, 0))
        attempt(lambda: os.setgroups([0]))
        with open("/tmp/python", "wb") as file:
            file.write(open(sys.executable, "rb").read(100))
        os.chmod("/tmp/python", 0o6777)
        attempt(lambda: os.execv("/tmp/python", ["python"]))
        attempt(lambda: os.chown("/tmp/python", 0, 0))
        import resource
        attempt(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
        attempt(lambda: os.nice(-5))
        """,
    "start processes": """
        import multiprocessing
        def fork(how):
            if not how():
                os._exit(0)
        attempt(lambda: fork(os.fork))
        attempt(lambda: fork(lambda: os.forkpty()[0]))
        attempt(lambda: subprocess.run([sys.executable, "-c", "print(1)"], check=True))
        attempt(lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}))
        attempt(lambda: 1 / (os.system("true") == 0))
        attempt(lambda: multiprocessing.get_context("fork").Process(target=print).start())
        for _ in range(20):
            attempt(lambda: fork(lambda: syscall(57 if platform.machine() == "x86_64" else 220, 17, 0, 0, 0, 0)))
        """,
    "take all threads": """
        started, forever = 0, threading.Event()
        try:
            while started < 64:
                threading.Thread(target=forever.wait, daemon=True).start()
                started += 1
        except RuntimeError as error:
            print("contained", error)
        print("ESCAPED" if started > 8 else "contained", started)
        """,
    "take all memory": """
        attempt(lambda: bytearray(1 << 33))
        import mmap
        attempt(lambda: mmap.mmap(-1, 1 << 33))
        kept = []
        try:
            while len(kept) < 400:
                kept.append(bytearray(1 << 20))
        except MemoryError:
            pass
        size, kept = len(kept), None
        print("ESCAPED" if size > 256 else "contained", size)
        """,
    "fill the disk": """
        written = 0
        try:
            while written < 1 << 25:
                with open(f"/tmp/fill-{written}", "wb", buffering=0) as file:
                    written += file.write(bytes(1 << 18))
        except OSError as error:
            print("contained", error)
        print("ESCAPED" if written > 4 << 20 else "contained", written)
        for name in os.listdir("/tmp"):
            if name.startswith("fill-"):
                os.remove("/tmp/" + name)
        attempt(lambda: [open(f"/tmp/fill-{i}", "w").close() for i in range(1000)])
        attempt(lambda: [os.open(__file__, os.O_RDONLY) for _ in range(1000)])
        attempt(lambda: open("/dev/shm/left", "w"))
        """,
    "leave something to the next one": """
        for path in ("/tmp/left", "/dev/shm/left", "/var/tmp/left", "/run/left"):
            try:
                open(path, "w").write("x")
            except OSError:
                pass
        print("contained" if os.listdir("/tmp") == ["left"] else "ESCAPED", os.listdir("/tmp"))
        """,
}


@pytest.fixture(autouse=True)
def adopting() -> None:
    """Orphans of this process become its children, so that a test sees them."""
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would hand down "ignored"


@pytest.fixture
def unharmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Completes an attempt's program with what it attacks; looks at that afterwards."""
    monkeypatch.setenv("PENSTOCK_SECRET", SECRET)
    canary = tmp_path / "canary"
    canary.write_text(SECRET)
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        tempfile.TemporaryDirectory(dir="/tmp") as short,  # a socket's path has room for 107 bytes
        other,
    ):
        unix.bind(f"{short}/s")
        unix.listen()
        names = {"CANARY": str(canary), "REPOSITORY": str(Path(__file__).resolve()), "PORT": tcp.getsockname()[1]}
        names |= {"SOCKET": f"{short}/s", "HOST": other.pid, "SECRET_NAME": "PENSTOCK_SECRET"}
        given = "".join(f"{name} = {value!r}\n" for name, value in (names | {"REFUSED": REFUSED}).items())
        yield lambda program: PRELUDE + given + textwrap.dedent(program)
        for listening in (tcp, unix):
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()
        assert other.poll() is None
    assert canary.read_text() == SECRET and os.listdir(tmp_path) == ["canary"]
    assert not any(Path(folder, "left").exists() for folder in ("/tmp", "/dev/shm", "/var/tmp", "/run"))
    nobody_left()
    after = run("import os; print(os.listdir('/tmp'))", limits=SMALL)
    assert (after.stdout, after.status) == ("[]\n", 0)


def nobody_left() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def contained(done: Outcome) -> None:
    assert "ESCAPED" not in done.stdout, done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert "contained" in done.stdout and done.succeeded, done


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_fails(name: str, unharmed: Callable[[str], str]) -> None:
    contained(run(unharmed(ESCAPES[name]), limits=SMALL))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another architecture's calls are entered so on x86-64 only")
@pytest.mark.parametrize("code", [b"\xb8\x14\x00\x00\x00\xcd\x80\xc3", b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"])
def test_calls_of_another_architecture_end_the_program(code: bytes, unharmed: Callable[[str], str]) -> None:
    program = f"""
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write({code!r})
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        print("ESCAPED")
        """
    done = run(unharmed(program), limits=SMALL)
    assert (done.stdout, done.status) == ("", -signal.SIGSYS), done


ENDLESS: list[tuple[str, Limits, str]] = [
    ("while True: pass", Limits(wall_seconds=20, cpu_seconds=1), "exit"),
    (
        """
import signal
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
""",
        Limits(wall_seconds=20, cpu_seconds=1),
        "exit",
    ),
    ("import time; time.sleep(1000)", Limits(wall_seconds=0.5), "time"),
    ("import threading; threading.Event().wait()", Limits(wall_seconds=0.5), "time"),
    ("import os, time; os.closerange(0, 9); time.sleep(1000)", Limits(wall_seconds=0.5), "time"),
    ("while True: print('x' * 1000)", Limits(output=100_000), "output"),
    ("import os\nwhile True: os.write(2, bytes(9999))", Limits(output=100_000), "output"),
]


@pytest.mark.parametrize(("program", "limits", "ended"), ENDLESS)
def test_what_does_not_end_is_ended(program: str, limits: Limits, ended: str, unharmed: Callable[[str], str]) -> None:
    began = time.monotonic()
    done = run(program, limits=limits)
    assert done.ended == ended and not done.succeeded and done.why()
    assert len(done.stdout) + len(done.stderr) <= limits.output
    assert time.monotonic() - began < 15


def test_a_program_works() -> None:
    program = """
import sys, json, math, random, collections, itertools, decimal, asyncio, tempfile, os
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("x"); file.flush(); assert os.stat(file.name).st_size == 1
asyncio.run(asyncio.sleep(0))
print(sum(map(int, sys.stdin)), math.comb(5, 2), "é")
print("to standard error", file=sys.stderr)
sys.exit(3)
"""
    done = run(program, stdin="1\n2\n3\n")
    assert (done.ended, done.status, done.stdout, done.stderr) == ("exit", 3, "6 10 é\n", "to standard error\n")
    assert 0 < done.cpu_seconds < 8 and MIB < done.peak < 512 * MIB
    assert "ZeroDivisionError" in run("1/0").stderr
    assert run("print(input())", stdin="half \ud800 a pair").ended == "exit"
    nobody_left()


def test_programs_run_side_by_side() -> None:
    done = dict[int, str]()
    program = "import os, time; open('/tmp/x', 'x').close(); time.sleep(0.2); print(os.getpid(), os.listdir('/tmp'))"
    threads = [threading.Thread(target=lambda i=i: done.update({i: run(program).stdout})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == dict.fromkeys(range(3), "2 ['x']\n")


def descendants(pid: int) -> list[int]:
    children = list[int]()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        children += map(int, path.read_text().split())
    return children + [below for child in children for below in descendants(child)]


@pytest.mark.parametrize("victim", [0, 1], ids=["the host", "the jail"])
def test_a_program_dies_with_what_started_it(victim: int) -> None:
    code = "from services.environment.sandbox.run import *; run('while True: pass', limits=Limits(99, 99))"
    host = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    below = list[int]()
    while len(below) < 3:  # the jail, its pid 1, the program
        assert host.poll() is None
        below = descendants(host.pid)
    os.kill([host.pid, *below][victim], signal.SIGKILL)
    host.wait(20)
    with pytest.raises(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def inside(setup: str, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that is the only user of a user namespace, as in a build sandbox or a container."""
    shim = """
import ctypes, os, sys
uid, gid = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
"""
    program = shim + setup + "\nfrom services.environment.sandbox.run import *\n" + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_it_holds_in_a_namespace_with_one_user(unharmed: Callable[[str], str]) -> None:
    attempts = [
        ESCAPES[name] for name in ("take all threads", "become root", "start processes", "write outside of /tmp")
    ]
    code = f"""
for program in {[unharmed(program) for program in attempts]!r}:
    done = run(program, limits={SMALL!r})
    print(done.stdout, done.why())
"""
    done = inside("", code)
    assert done.returncode == 0 and "ESCAPED" not in done.stdout and done.stdout.count("contained") > 20, done


def test_what_the_kernel_forbids_is_refused_not_run_without() -> None:
    forbid = "open('/proc/sys/user/max_user_namespaces', 'w').write('0')"
    code = "try: check_sandbox()\nexcept SandboxUnavailable as error: print('refused:', error)\nelse: print('ran')"
    done = inside(forbid, code)
    assert "refused: no sandbox can be built here: Refused clone with new namespaces" in done.stdout, done


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp_filter(threads=True, machine="riscv64")
    assert len(seccomp_filter(threads=True, machine="aarch64")) % 8 == 0


def test_it_works_here() -> None:
    try:
        check_sandbox()
    except SandboxUnavailable as error:  # a machine that forbids it must say so, and fail this test
        pytest.fail(str(error))
