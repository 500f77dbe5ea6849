"""Commands that die with whoever started them, also by kill -9.

PR_SET_PDEATHSIG is set by a shim that then becomes the command. Not by a `preexec_fn`: that runs Python between fork
and exec, which crashes in a process that runs gRPC.
"""

import multiprocessing
import os
import pathlib
import sys
from collections.abc import Sequence

_SHIM = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def mortal(command: Sequence[str], parent: int) -> list[str]:
    """The command that runs `command` (its first word is a path) and is killed when process `parent` dies."""
    return [sys.executable, "-I", "-S", "-c", _SHIM, str(parent), *command]


def mortal_spawns() -> None:
    """From now on, what `multiprocessing` spawns here, and what that spawns, dies with its parent, also by kill -9.

    For libraries that start processes by themselves and forget them (vLLM's engine). Must be called before they do; the
    thread that starts a process must live as long as it should.
    """
    os.environ.update(PENSTOCK_PYTHON=sys.executable, PENSTOCK_PARENT=str(os.getpid()))
    multiprocessing.set_executable(str(pathlib.Path(__file__).with_name("spawn.sh")))
