"""A rank that dies, hangs or gives up brings its group down in bounded time, and is named. Real ranks, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from penstock.system import exits
from penstock.system.memory_kills import memory_kills
from services.learner.ranks.launching import reason, too_few

HUNG = 3.0
SOON = 60.0  # far below the collectives' time-out of 600 s


class Group:
    """Two ranks under way."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pids: dict[int, int] = {}

    def ready(self) -> "Group":
        """Waits until both ranks are at step 3."""
        assert self._process.stdout is not None
        while len(self.pids) < 2:
            line = self._process.stdout.readline()
            assert line, self._process.communicate()[1]
            if line.startswith("ready "):
                _, rank, pid = line.split()
                self.pids[int(rank)] = int(pid)
        return self

    def end(self) -> tuple[int, str]:
        """(exit code, what was said); fails if the group does not end soon, or leaves a rank behind."""
        _, said = self._process.communicate(timeout=SOON)
        for pid in self.pids.values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        return self._process.returncode, said

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None


@contextmanager
def group(behaviour: str = "steps", collective: float = 600.0) -> Iterator[Group]:
    command = [
        sys.executable,
        "-m",
        "services.learner.testing.group",
        "launch",
        str(HUNG),
        str(collective),
        behaviour,
    ]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield Group(process)
    finally:
        process.kill()  # ranks ask the kernel to die with their launcher
        process.communicate()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed(rank: int) -> None:
    with group() as g:
        victim = g.ready().pids[rank]
        os.kill(victim, signal.SIGKILL)
        code, said = g.end()
    assert code == 1
    assert f"rank {rank} (process {victim}) was killed by SIGKILL" in said


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped(rank: int) -> None:
    with group() as g:
        victim = g.ready().pids[rank]
        began = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        code, said = g.end()
        assert time.monotonic() - began >= HUNG
    assert code == 1
    assert f"rank {rank} (process {victim} on " in said
    assert ", stopped) has shown no sign of life for 3 s; it was at " in said


def test_a_rank_that_is_stuck_outside_a_collective() -> None:
    with group("stuck", collective=5.0) as g:
        code, said = g.ready().end()
    assert code == 1
    assert "rank 1 is at step 3, in wait (threading.py" in said
    assert "wait_for_ever_outside_a_collective" in said


def test_a_rank_that_cannot_go_on_says_so_by_the_exit_code() -> None:
    with group("cannot") as g:
        code, said = g.ready().end()
    assert code == 2
    assert "rank 1 " in said and "the recipe is wrong" in said


def test_a_group_that_is_frozen_and_thawed_goes_on() -> None:
    with group() as g:
        pids = g.ready().pids.values()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * HUNG)  # it is the time that is tested
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            g._process.wait(2 * HUNG)
        assert g.running


def failure(code: int, at: int, words: str = "") -> ProcessFailure:
    found = ProcessFailure(local_rank=0, pid=7, exitcode=code, error_file="/nowhere")
    found.timestamp, found.message = at, words
    return found


def test_the_cause_is_not_what_it_caused() -> None:
    peer, killed = failure(1, 1, "connection closed by peer"), failure(-signal.SIGKILL, 2)
    ended, lost = failure(-signal.SIGTERM, 0), failure(exits.RANK_LOST, 3, "RankHung: rank 1 is stopped")

    def said(failures: dict[int, ProcessFailure]) -> str:
        return reason(failures, memory_kills())[0]

    assert said({0: peer, 1: killed, 2: ended}).startswith("rank 1 (process 7) was killed by SIGKILL")
    assert said({0: lost, 1: killed, 2: ended}) == "RankHung: rank 1 is stopped; the group was ended"
    assert "connection closed by peer" in said({0: peer, 2: ended})
    assert "rank 3 (process 7) ended with code 2: bad" in said({0: peer, 3: failure(2, 9, "bad")})


def listeners(pid: int) -> set[str]:
    """Addresses on which a process accepts connections, as the kernel writes them."""
    sockets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    found.add(fields[1].partition(":")[0])
    return found


def test_more_ranks_than_the_host_gives_devices_are_refused_before_any_is_started() -> None:
    assert not too_few(4, 4) and not too_few(1, 8) and not too_few(4, 0), "without a GPU ranks compute on the CPU"
    assert "4 ranks on this host want a GPU each, and it gives 2; set learner.ranks to 2" in too_few(4, 2)


def test_nothing_of_a_group_listens_beyond_loopback() -> None:
    with group() as running:
        running.ready()
        for pid in (*running.pids.values(), running.pid):
            assert listeners(pid) <= {"0100007F", "0" * 24 + "01000000"}, "127.0.0.1 and ::1 as the kernel writes them"
        assert any(listeners(pid) for pid in running.pids.values()), "gloo's own"
