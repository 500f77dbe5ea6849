"""What this process starts dies with it, also by kill -9, also what a library starts through multiprocessing."""

import pathlib
import subprocess
import sys
import time

import pytest

COMMAND = """
import os, subprocess, sys, time
from penstock.system.parent_death import mortal
child = subprocess.Popen(mortal([sys.executable, "-c", "import time; time.sleep(600)"], os.getpid()))
print(child.pid, flush=True)
time.sleep(600)
"""
SPAWN = """
import multiprocessing, time
from penstock.system.parent_death import mortal_spawns

if __name__ == "__main__":
    mortal_spawns()
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)
"""
NESTED = """
import multiprocessing, time
from penstock.system.parent_death import mortal_spawns

def spawn():
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    mortal_spawns()
    multiprocessing.get_context("spawn").Process(target=spawn).start()
    time.sleep(600)
"""
ASKED = """
import subprocess, sys, time
code = "from penstock.system.parent_death import die_with_parent; die_with_parent(); print(flush=True); "
code += "import time; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "program", [COMMAND, SPAWN, NESTED, ASKED], ids=["command", "spawn", "spawned by spawned", "asked for by itself"]
)
def test_children_die_with_their_parent_also_by_kill_9(tmp_path: pathlib.Path, program: str) -> None:
    path = tmp_path / "parent.py"
    path.write_text(program)
    parent = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = parent.stdout.readline().strip()
    assert runs(child)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while runs(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not runs(child)


def runs(pid: str) -> bool:
    """Whether the process is there and is not just waiting to be reaped by a container's init that does not hurry."""
    try:
        return pathlib.Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_spawned_work_runs_and_returns() -> None:
    program = """
import multiprocessing, sys
from penstock.system.parent_death import mortal_spawns

if __name__ == "__main__":
    mortal_spawns()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(len, ("four",)), pool.apply(eval, ("__import__('sys').executable",)) == sys.executable)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "4 True\n", ran.stderr
