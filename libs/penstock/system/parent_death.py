"""Processes that die with whoever started them, also by kill -9.

    mortal(command, os.getpid())    a command that is killed when this process dies
    mortal_spawns()                 the same for what a library starts through multiprocessing
    die_with_parent()               asked by a process that was started some other way

PR_SET_PDEATHSIG is set by a shim that then becomes the command. Not by a `preexec_fn`: that runs Python between fork
and exec, which crashes in a process that runs gRPC.
"""

import ctypes
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1

_SHIM = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def mortal(command: Sequence[str], parent: int) -> list[str]:
    """The command that runs `command` (its first word is a path) and is killed when process `parent` dies."""
    return [sys.executable, "-I", "-S", "-c", _SHIM, str(parent), *command]


def die_with_parent() -> None:
    """From now on this process is killed when the thread that started it ends. Says nothing of a parent that is gone
    already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def mortal_spawns() -> None:
    """From now on, what `multiprocessing` spawns here, and what that spawns, dies with its parent, also by kill -9.

    For libraries that start processes by themselves and forget them (vLLM's engine). Must be called before they do; the
    thread that starts a process must live as long as it should.
    """
    os.environ.update(PENSTOCK_PYTHON=sys.executable, PENSTOCK_PARENT=str(os.getpid()))
    multiprocessing.set_executable(str(pathlib.Path(__file__).with_name("spawn.sh")))
