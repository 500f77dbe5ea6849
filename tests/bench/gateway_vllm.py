"""What a turn costs in the gateway and in a bare vLLM server: 64 conversations of 8 turns at once, by one client.

Two real engines of one tiny model: one is generation's, with a gateway in front of it; the other is that of vLLM's own
OpenAI server. Each round has the same conversations by HTTP from both, one after the other. What is told is CPU time of
the processes in front of an engine, by the kernel's count: engines themselves and the client are no part of it.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import pathlib
import socket
import statistics
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence

from penstock.supervisor.plan import launcher
from penstock.system.parent_death import mortal
from penstock.tiny_model import make_model
from tests.bench.gateway import key_of, measured, turns_by_http
from tests.bench.report import Report

CONTEXT, READY_SECONDS = 512, 300.0
TICK = 1 / os.sysconf("SC_CLK_TCK")
VLLM = {
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
"""As generation sets them for its own engine."""


def cpu_seconds(pid: int) -> float:
    """CPU time of one process without its children."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


@contextlib.asynccontextmanager
async def started(log: pathlib.Path, *command: object, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process for the block."""
    words = mortal([str(word) for word in command], os.getpid())
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*words, stdout=out, stderr=out, env={**os.environ, **variables})
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def ready(starting: asyncio.subprocess.Process, log: pathlib.Path, is_ready: Callable[[], bool]) -> None:
    """Waits for a process that starts. Raises RuntimeError with its last words."""
    end = time.monotonic() + READY_SECONDS
    while not await asyncio.to_thread(is_ready):
        if starting.returncode is not None or time.monotonic() > end:
            raise RuntimeError(log.read_text(errors="replace")[-2000:])
        await asyncio.sleep(0.2)  # neither a file nor a port announces itself


def answers(url: str) -> bool:
    """Whether a server is healthy."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


async def round_of(args: argparse.Namespace, url: str, number: int, pids: Sequence[int]) -> tuple[float, list[float]]:
    """Seconds of one round of conversations, and CPU milliseconds a turn of each process."""
    before = [cpu_seconds(pid) for pid in pids]
    keys = [key_of(number, each) for each in range(args.sessions)]
    one = functools.partial(turns_by_http, url, keys, args.turns, args.tokens)
    wall, _ = await measured(args.sessions, one)
    calls = args.sessions * args.turns
    return wall, [1e3 * (cpu_seconds(pid) - at) / calls for pid, at in zip(pids, before, strict=True)]


async def main(args: argparse.Namespace) -> None:
    report = Report("gateway_vllm", vars(args))
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_BENCH_VLLM"])
    front = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_BENCH_GATEWAY_FRONT"])
    async with contextlib.AsyncExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_model(folder / "model", context=CONTEXT)
        logs = {name: folder / f"{name}.log" for name in ("engine", "gateway", "vllm")}
        flags = ("--model", folder / "model", "--max-context", CONTEXT, "--announce", folder / "engine")
        engine = await stack.enter_async_context(started(logs["engine"], *launcher("generation"), *flags))
        await ready(engine, logs["engine"], (folder / "engine").exists)
        address = (folder / "engine").read_text()
        counts = [w for n in ("sessions", "turns", "tokens") for w in (f"--{n}", getattr(args, n))]
        opened = ("--engine", address, "--model", folder / "model", "--context", CONTEXT, "--rounds", args.rounds + 1)
        announced = ("--announce", folder / "gateway")
        gateway = await stack.enter_async_context(started(logs["gateway"], front, *opened, *counts, *announced))
        port = free_port()
        served = ("--model", folder / "model", "--host", "127.0.0.1", "--port", port, "--served-model-name", "policy")
        how = ("--max-model-len", CONTEXT, "--dtype", "float32", "--enforce-eager", "--disable-log-stats")
        bare = await stack.enter_async_context(started(logs["vllm"], program, *served, *how, **VLLM))
        urls = {"vllm": f"http://127.0.0.1:{port}"}
        await ready(bare, logs["vllm"], functools.partial(answers, urls["vllm"]))
        await ready(gateway, logs["gateway"], (folder / "gateway").exists)
        urls["gateway"] = (folder / "gateway").read_text()
        pids = {"gateway": [gateway.pid, engine.pid], "vllm": [bare.pid]}
        found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in urls}
        for number in range(args.rounds + 1):  # the first warms up
            for name, url in urls.items():
                found[name].append(await round_of(args, url, number, pids[name]))
    costs = {name: [spent for _, spent in rounds[1:]] for name, rounds in found.items()}
    fronts = {
        "gateway": [spent[0] for spent in costs["gateway"]],
        "generation, without its engine": [spent[1] for spent in costs["gateway"]],
        "vLLM's server, without its engine": [spent[0] for spent in costs["vllm"]],
    }
    for process, spent in fronts.items():
        report.add(process=process, cpu_ms=statistics.median(spent), least=min(spent), most=max(spent))
    calls = args.sessions * args.turns
    for name, rounds in found.items():
        report.note(f"{name}: {calls / statistics.median(wall for wall, _ in rounds[1:]):.0f} turns a second")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=64, help="conversations at once")
    parser.add_argument("--turns", type=int, default=8, help="calls of each")
    parser.add_argument("--tokens", type=int, default=10, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args()))
