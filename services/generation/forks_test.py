"""Processes forked by a server: what they start with, and that they end with whoever asked for them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

SCRIPT = """
import os, pathlib, sys, time
from services.generation import forks

told = pathlib.Path(sys.argv[1])

def nested():
    (told / "nested").write_text(f"{os.getpid()} {os.environ['SAID']}")
    time.sleep(600)

def forked():
    (told / "forked").write_text(f"{os.getpid()} {os.environ['SAID']}")
    forks.forking().Process(target=nested).start()
    time.sleep(600)

if __name__ == "__main__":
    forks.serve()
    os.environ["SAID"] = "later"
    process = forks.forking().Process(target=forked)
    process.start()
    print(forks._server._forkserver_pid, flush=True)
    process.join()
    os.waitid(os.P_PID, forks._server._forkserver_pid, os.WEXITED | os.WNOWAIT)  # what it forked may end before it has
    print(process.exitcode, forks.forking().get_start_method(), flush=True)
"""


@pytest.fixture
def asker(tmp_path: pathlib.Path) -> "subprocess.Popen[str]":
    """A process with a server, a process that it asked for, and one that this one asked for."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return process


def until_told(folder: pathlib.Path, name: str) -> tuple[int, str]:
    """What a process of the script wrote."""
    path = folder / name
    end = time.monotonic() + 60
    while not (path.is_file() and " " in path.read_text()):
        assert time.monotonic() < end, f"{name} never ran"
        time.sleep(0.01)
    pid, said = path.read_text().split()
    return int(pid), said


def ended(*pids: int) -> bool:
    """Whether they end within a minute."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(processes, timeout=60)[1]


def test_what_was_forked_dies_with_the_process_that_asked_for_it(
    asker: "subprocess.Popen[str]", tmp_path: pathlib.Path
) -> None:
    (forked, said), (nested, _) = until_told(tmp_path, "forked"), until_told(tmp_path, "nested")
    assert said == "later", "the environment of the moment, not that of the server"
    assert asker.stdout is not None
    server = int(asker.stdout.readline())
    assert psutil.Process(forked).ppid() == psutil.Process(nested).ppid() == server
    asker.kill()
    asker.wait()
    assert ended(server, forked, nested)


def test_without_its_server_a_process_spawns_again(asker: "subprocess.Popen[str]", tmp_path: pathlib.Path) -> None:
    (forked, _), (nested, _) = until_told(tmp_path, "forked"), until_told(tmp_path, "nested")
    assert asker.stdout is not None
    os.kill(int(asker.stdout.readline()), signal.SIGKILL)
    assert ended(forked, nested)
    assert asker.stdout.readline().split() == ["255", "spawn"]
    assert asker.wait(60) == 0


COMPUTING = """
import torch
from services.generation import forks

def compute():
    torch.ones(1 << 22).exp_().sum()

if __name__ == "__main__":
    torch.set_num_threads(2)
    compute()
    forks.serve()
    process = forks.forking().Process(target=compute)
    process.start()
    process.join(60)
    print(process.exitcode)
    process.kill()
"""


def test_what_was_forked_computes_with_threads_where_its_parent_did(tmp_path: pathlib.Path) -> None:
    (tmp_path / "script.py").write_text(COMPUTING)
    found = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert found.stdout.strip() == "0", found.stderr
