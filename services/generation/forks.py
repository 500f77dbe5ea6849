"""vLLM imported once: a process that has it and does nothing else is forked for every process of an engine.

By itself vLLM spawns its core and its workers, and each imports it again, some ten seconds of CPU a piece; so does any
engine that is started after a death. The server is multiprocessing's own, run in a fork instead of in a new Python.

Invariant (test name): what was forked dies with the process that asked for it, also by kill -9.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import threading
from concurrent.futures import Future
from multiprocessing import connection, context, forkserver, resource_tracker
from typing import Any

from penstock.system.parent_death import die_with_parent, mortal_spawns

IMPORTED = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.gpu_model_runner",
    "services.generation.routing.recording",
    "services.generation.weight_backend",
)
"""What an engine's processes import."""
_server: Any = forkserver._forkserver


class Forked(context.ForkServerProcess):
    """A process that the server forks, with the environment of who asks for it: vLLM writes to it until then."""

    _environment: dict[str, str]

    def start(self) -> None:
        """Asks the server for it."""
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        """In the forked process."""
        os.environ.update(self._environment)
        mortal_spawns()  # what is spawned here is this process' own
        super().run()


class _Context(context.ForkServerContext):
    Process = Forked


def begin(threads: int) -> None:
    """Imports vLLM and begins the server, if this process has none, before it has threads that hold locks, and after
    vLLM's environment was set. threads: of what is computed in each process."""
    if _server._forkserver_pid is not None:
        return
    for name in IMPORTED:
        importlib.import_module(name)
    import torch
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    if torch.cuda.is_initialized():  # which a fork cannot use: vLLM spawns then, as it does by itself
        return
    torch.set_num_threads(threads)  # it may have been imported too early to hear of OMP_NUM_THREADS
    for module in (utils, multiproc_executor):
        module.get_mp_context = forking
    serve()


def serve() -> None:
    """Forks the server from this process as it is, by a thread of its own that stays: a thread that has computed with
    others (OpenMP) believes in a fork that they are still there, and waits for them for ever."""
    forked: Future[None] = Future()

    def fork() -> None:
        try:
            _fork()
        except BaseException as error:
            forked.set_exception(error)
            raise
        forked.set_result(None)
        threading.Event().wait()  # the server ends with the thread that forked it

    threading.Thread(target=fork, name="forked-vllm", daemon=True).start()
    forked.result()


def _fork() -> None:
    resource_tracker.ensure_running()
    alive, held = os.pipe()
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        pid = os.fork()
        if pid == 0:
            os.close(held)
            _serve(listener.detach(), alive)
    os.close(alive)
    _server._forkserver_address, _server._forkserver_alive_fd, _server._forkserver_pid = address, held, pid


def _serve(listener: int, alive: int) -> None:
    """In the server: forks what it is asked for until nobody is left who could ask."""
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # What is forked asks this server too, and is not its parent.
    _server.ensure_running = resource_tracker.ensure_running
    try:
        forkserver.main(listener, alive, [])
    finally:
        os._exit(0)


def forking() -> multiprocessing.context.BaseContext:
    """For vLLM in place of its own: spawns where the server is gone."""
    pid = _server._forkserver_pid
    if pid is not None:
        try:
            gone = os.waitpid(pid, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            gone = True
        if gone:
            return multiprocessing.get_context("spawn")
    return _Context()
