"""What is done to a run: kills, pauses, a network that is gone, a disk that is full.

kill   SIGKILL of one process of a role, of NATS, or of the launcher above them all
pause  SIGSTOP, and SIGCONT a while later: a peer that accepts and never answers
cut    the loopback of the run's own network namespace goes down and comes back: nobody reaches anybody
part   nobody reaches one service, or NATS, and it reaches nobody who calls it; the others reach each other
fill   the run's file system is filled to its last byte for a while
clock  the clock of all processes but NATS jumps, by up to a day, and stays so
"""

import contextlib
import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

LONGEST = 2.0
"""Seconds of a pause, a cut, a full disk."""
LAUNCHER = "penstock"
PARTED = 8.0
"""Seconds of a partition at most: longer than anybody waits for a ping."""
JUMP = 86400
"""Seconds by which the clock is wrong at most."""
PACE = 5.0
"""A role is not killed again within so many seconds: five deaths in a row end a run, as they should."""


@dataclass(frozen=True)
class Fault:
    """kind and role; `seconds` where it lasts, or by which a clock is wrong."""

    kind: str
    role: str = ""
    seconds: float = 0.0


def chosen(rng: random.Random, roles: Sequence[str], isolated: bool, resting: Callable[[str], bool]) -> Fault:
    """The next fault. isolated: whether network and file system are the run's own. resting: whether a role has just
    been killed."""
    kinds = ["kill", "pause", "clock", *(["cut", "fill", "part"] if isolated else [])]
    kind = rng.choices(kinds, [6, 4, 1, 1, 1, 2][: len(kinds)])[0]
    seconds = rng.uniform(0.05, LONGEST)
    if kind == "clock":
        return Fault(kind, "", float(rng.choice([0, rng.randint(-JUMP, JUMP)])))
    if kind in ("cut", "fill"):
        return Fault(kind, "", seconds)
    if kind == "part":
        return Fault(kind, rng.choice(roles), rng.uniform(0.05, PARTED))
    role = rng.choice([*roles, LAUNCHER])
    if kind == "kill" and not resting(role):
        return Fault("kill", role)
    return Fault("pause", role, seconds)


class Host:
    """Where a run is disturbed. processes: of a role, whatever it is now; port: of a role, 0 while it has none; clock:
    the file of `wrong_clock`."""

    def __init__(
        self,
        disk: pathlib.Path,
        processes: Callable[[str], list[int]],
        port: Callable[[str], int],
        clock: pathlib.Path,
    ) -> None:
        self._disk, self._processes, self._port, self._clock = disk, processes, port, clock

    def inflict(self, fault: Fault, rng: random.Random) -> bool:
        """Does it, and undoes it where it lasts; whether there was anybody to do it to."""
        match fault.kind:
            case "kill":
                return self._signal(fault.role, signal.SIGKILL, rng) is not None
            case "pause":
                return self._pause(fault, rng)
            case "clock":
                set_clock(self._clock, fault.seconds)
                return True
            case "part":
                return self._part(fault)
            case "cut":
                with _undone(lambda: _link("up")):
                    _link("down")
                    time.sleep(fault.seconds)
                return True
            case _:
                full = self._disk / "chaos-fills-the-disk"
                with _undone(lambda: full.unlink(missing_ok=True)):
                    _fill(full)
                    time.sleep(fault.seconds)
                return True

    def _part(self, fault: Fault) -> bool:
        port = self._port(fault.role)
        if not port:
            return False
        try:
            with unreachable(port):
                time.sleep(fault.seconds)
        except subprocess.CalledProcessError:  # a kernel without routing by policy
            return False
        return True

    def _pause(self, fault: Fault, rng: random.Random) -> bool:
        pid = self._signal(fault.role, signal.SIGSTOP, rng)
        if pid is None:
            return False
        time.sleep(fault.seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        return True

    def _signal(self, role: str, number: signal.Signals, rng: random.Random) -> int | None:
        """The process that got it, of those of the role; None if there is none."""
        found = self._processes(role)
        rng.shuffle(found)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                return pid
        return None


def wrong_clock(file: pathlib.Path) -> dict[str, str]:
    """The environment of processes whose clock on the wall is what `set_clock` says; the monotonic one is right."""
    package = importlib.util.find_spec("libfaketime")
    assert package is not None and package.origin is not None
    library = pathlib.Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    set_clock(file, 0.0)
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def set_clock(file: pathlib.Path, seconds: float) -> None:
    """Makes the clock wrong by so much, within a second."""
    beside = file.with_suffix(".new")
    beside.write_text(f"{seconds:+.0f}\n")
    os.replace(beside, file)


@contextlib.contextmanager
def _undone(undo: Callable[[], object]):  # type: ignore[no-untyped-def]
    try:
        yield
    finally:
        undo()


def _link(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def parted() -> None:
    """Lets rules of `unreachable` come before that which finds local addresses; in a namespace of one's own."""
    subprocess.run(["ip", "rule", "add", "pref", "100", "lookup", "local"], check=True)
    subprocess.run(["ip", "rule", "del", "pref", "0"], check=True)


@contextlib.contextmanager
def unreachable(port: int) -> Iterator[None]:
    """No packet comes to a port of this network namespace, nor from it, for the block. Raises CalledProcessError."""
    _route("add", port)
    with _undone(lambda: _route("del", port)):
        yield


def _route(what: str, port: int) -> None:
    for side in ("dport", "sport"):
        rule = ["pref", "50", "ipproto", "tcp", side, str(port), "unreachable"]
        subprocess.run(["ip", "rule", what, *rule], check=True)


def _fill(path: pathlib.Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # until it is full
        while file.write(bytes(1 << 20)):
            pass
