import os
import pathlib

import torch

from services.learner.backends.common.allocator import give_back


def resident() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_what_a_step_freed_is_the_systems_again() -> None:
    """Blocks too small for mappings of their own, the last of which keeps the heap from shrinking."""
    give_back()
    before = resident()
    kept = [torch.ones(15_000) for _ in range(6000)]  # 60 kB each, 340 MiB
    used = resident() - before
    last = kept[-1]
    del kept
    held = resident() - before
    assert give_back()
    assert resident() - before < 0.2 * used, f"{used} taken, {held} held before, {resident() - before} after"
    assert float(last[0]) == 1.0
