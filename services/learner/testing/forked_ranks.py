"""Runs a function on N forked gloo ranks and returns what each returned.

Forked, because importing Megatron takes seconds and a fork inherits it. Each rank has its own process group and asks
the kernel to die with its parent, so neither a failed test nor a killed test runner leaves processes behind. When one
rank fails the others, which would wait for it in a collective, are ended at once.
"""

import datetime
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from penstock.system.parent_death import die_with_parent


class RankFailed(AssertionError):
    """A rank raised or died; the message has its traceback."""


class _Crashed(RankFailed):
    """A library's native code broke a rank."""


def _rank_main(
    rank: int, world: int, directory: str, parent: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.setpgid(0, 0)
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    torch.set_num_threads(1)
    status = 1
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{directory}/rendezvous",
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(seconds=60),
        )
        torch.save(function(*args), f"{directory}/result.{rank}")
        dist.barrier()
        dist.destroy_process_group()
        status = 0
    except BaseException:  # the process boundary: reported by the parent
        Path(f"{directory}/error.{rank}").write_text(traceback.format_exc())
    os._exit(status)


def run_ranks(world: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """function(*args) on every rank with torch.distributed initialised; results in rank order.

    Ranks of which one was ended by SIGSEGV run once more, as a learner's would: none of our code is native, and one of
    gloo's own threads has died so in a collective (torch 2.13; once in some hundred suites).

    Raises RankFailed with the tracebacks of the ranks that failed by themselves.
    """
    try:
        return _run(world, function, args, timeout)
    except _Crashed as crashed:
        warnings.warn(f"{crashed}; they run once more", stacklevel=2)
        return _run(world, function, args, timeout)


def _run(world: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
    torch.set_num_threads(1)  # before the fork: OpenMP pools do not survive it
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as directory:
        ranks = [
            context.Process(target=_rank_main, args=(r, world, directory, os.getpid(), function, args))
            for r in range(world)
        ]
        for process in ranks:
            process.start()
        try:
            _join(ranks, time.monotonic() + timeout)
        finally:
            for process in ranks:
                _end(process)
        errors = [p.read_text() for p in sorted(Path(directory).glob("error.*"))]
        codes = [process.exitcode for process in ranks]
        if -signal.SIGSEGV in codes:
            raise _Crashed(f"ranks ended with {codes}")
        if any(codes):
            raise RankFailed("\n".join(errors) or f"ranks ended with {codes} (time limit {timeout} s)")
        return [torch.load(f"{directory}/result.{r}", weights_only=False) for r in range(world)]


def _join(ranks: list[Any], deadline: float) -> None:
    """Until all ranks ended, one failed, or time is up."""
    alive = list(ranks)
    while alive and time.monotonic() < deadline:
        wait([p.sentinel for p in alive], timeout=deadline - time.monotonic())
        alive = [p for p in alive if p.is_alive()]
        if any(p.exitcode for p in ranks if p not in alive):
            for p in alive:  # one that failed for the same reason may be about to say so
                p.join(0.2)
            return


def _end(process: Any) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the group is gone: the rank and all its children have ended
    process.join()
