"""A child that the kernel killed for lack of memory is told from one that somebody killed."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from penstock.system import exits
from penstock.system.memory_kills import OUT_OF_MEMORY, how_it_ended, memory_kills

GROUPS = pathlib.Path("/sys/fs/cgroup/memory")
LIMIT = 64 * 2**20


def test_only_a_sigkill_while_the_count_grew_is_for_lack_of_memory(tmp_path: pathlib.Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 7\noom_kill 3\n")
    assert memory_kills(counters) == 3 and memory_kills(tmp_path / "none") == 0
    assert how_it_ended(-signal.SIGKILL, 2, counters) == OUT_OF_MEMORY
    assert how_it_ended(-signal.SIGKILL, 3, counters) == "was killed by SIGKILL"
    assert how_it_ended(-signal.SIGSEGV, 2, counters) == "was killed by SIGSEGV"
    assert how_it_ended(exits.FAILED, 2, counters) == "ended with 1"
    assert how_it_ended(exits.OUT_OF_MEMORY, 3, counters) == OUT_OF_MEMORY, "a part of it was"


@pytest.fixture
def group() -> Iterator[pathlib.Path]:
    """A control group with little memory."""
    path = GROUPS / f"penstock-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        (path / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield path
    finally:
        path.rmdir()


def test_a_real_kill_by_the_kernel_is_seen(group: pathlib.Path) -> None:
    before = memory_kills()
    eats = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); b = bytearray({8 * LIMIT})"
    code = subprocess.run([sys.executable, "-c", eats], check=False).returncode
    assert how_it_ended(code, before) == OUT_OF_MEMORY
