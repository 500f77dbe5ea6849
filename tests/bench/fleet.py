"""What a sample costs beside engine and learner: CPU by process, with replicas and a learner that cost nothing.

Everything between is real and a process of its own: NATS, coordinator, rollout, environment, and generation's front,
whose replicas share a process so that hundreds fit on one host. The learner is this process, which reads the log,
writes the ledger's batches and reports as a learner does, and is not counted.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from typing import get_args

from penstock.bus import (
    Bus,
    RunLimits,
    RunNames,
    TaskConsumer,
    TaskKind,
    connect,
    ensure_run,
    load_payload,
    read,
    server_command,
    write_config,
)
from penstock.bus.embedded import free_ports
from penstock.cli.credentials import login_of, make_secrets, users_of
from penstock.recipes import Recipe, dump, resolve
from penstock.supervisor.plan import plan
from penstock.system.parent_death import mortal
from penstock.tiny_model import make_model
from penstock.trajectories import decode
from penstock.trajectory.v1 import trajectory_pb2 as pb
from tests.bench.report import Report

SIZE, GROUPS, STALENESS = 8, 32, 7
"""Samples of a group, groups of a step, and versions that a group may be old."""
OURS = ("coordinator", "rollout-0", "environment-0")
COUNTED = ("coordinator", "rollout-0", "generation", "nats")
"""What is held to be cheap; the environment's own work is beside."""
Program = subprocess.Popen[bytes]
WARM = 0.2
"""Share of the samples before anything is measured."""
SECONDS = 600


def recipe(folder: pathlib.Path, samples: int, tokens: int) -> Recipe:
    """A run of so many samples."""
    make_model(folder / "model", hidden=32, layers=1, intermediate=64, context=tokens + 64)
    rows = [{"prompt": f"sort {i:x}", "answer": "x"} for i in range(4096)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {
        "run": "fleet",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": samples // (SIZE * GROUPS), "groups_per_step": GROUPS, "group_size": SIZE},
        "staleness": {"max_versions": STALENESS},
        "sampling": {"max_tokens": tokens},
        "generation": {"max_context": tokens + 64},
        "learner": {"micro_batch_tokens": max(4096, tokens + 64)},
        "rollout": {"groups_per_worker": 16},
        "telemetry": {"tensorboard": False},
    }
    return resolve(raw)


class Learner:
    """Trains nothing: a step as soon as there are groups for it."""

    def __init__(self, bus: Bus, names: RunNames, steps: int) -> None:
        self._bus, self._names, self._steps = bus, names, steps
        self.samples = 0

    async def run(self) -> None:
        """Until every step was reported."""
        seen: dict[str, int] = {}
        whole: list[str] = []
        step = 0
        async with contextlib.aclosing(read(self._bus, self._names.log)) as entries:
            async for entry in entries:
                group = entry.subject.split(".")[-2]
                self.samples += 1
                seen[group] = seen.get(group, 0) + 1
                if seen[group] < SIZE:
                    continue
                t = decode(await load_payload(self._bus, self._names, entry.payload))
                assert t.outcome.status == pb.Outcome.STATUS_COMPLETED, t.outcome
                whole.append(group)
                if len(whole) == GROUPS:
                    step += 1
                    await self._trained(step, whole)
                    whole = []
                if step == self._steps:
                    return

    async def _trained(self, step: int, groups: list[str]) -> None:
        record = pb.BatchRecord(step=step)
        for group in groups:
            record.groups.add(group=group, indices=range(SIZE), log_sequences=range(SIZE), reward=0.5)
        await self._bus.js.publish(self._names.ledger_batch_subject(step), record.SerializeToString())
        report = pb.StepReport(step=step, metrics={"rl.loss": 0.0})
        await self._bus.js.publish(self._names.ledger_step_subject(step), report.SerializeToString())


@contextlib.asynccontextmanager
async def processes(commands: Mapping[str, tuple[str, ...]], folder: pathlib.Path) -> AsyncIterator[dict[str, Program]]:
    """These programs, running; they end with the block."""
    running = dict[str, Program]()
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(mortal(command, os.getpid()), stdout=log, stderr=log)
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu(pid: int) -> float:
    """Seconds of a process, without its children."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Of a process, with theirs."""
    own = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(each) for path in own for each in path.read_text().split()]
    return found + [each for child in found for each in children(child)]


def spent(running: Mapping[str, Program]) -> dict[str, float]:
    """Seconds of each process until now, with what scores for the environment and what stands in for the learner."""
    found = {name: cpu(process.pid) for name, process in running.items()}
    found["scoring"] = sum(cpu(each) for each in children(running["environment-0"].pid))
    return {**found, "learner": cpu(os.getpid())}


def mib(process: Program) -> float:
    """What a process has in memory."""
    resident = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / 2**20


async def until(path: pathlib.Path) -> str:
    """What a process writes once it is ready."""
    async with asyncio.timeout(SECONDS):
        while not path.is_file():
            await asyncio.sleep(0.05)  # nobody announces a file
    return path.read_text()


async def measure(folder: pathlib.Path, replicas: int, samples: int, tokens: int) -> dict[str, float]:
    """Samples a second, CPU milliseconds a sample by process, and MiB of each."""
    asked = recipe(folder, samples, tokens)
    names, run = RunNames(asked.run), folder / "run"
    (run / "nats").mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump(asked))
    make_secrets(run, asked.run)
    nats, http, *ports = free_ports(5)
    url, monitor = f"nats://127.0.0.1:{nats}", f"http://127.0.0.1:{http}"
    config = write_config(run / "nats", run / "nats" / "store", nats, http, users=users_of(run, asked.run))
    announced = folder / "engines.json"
    engines = (sys.executable, "-m", "tests.bench.fleet_engines", "--announce", str(announced))
    first = {
        "nats": tuple(server_command(config)),
        "generation": (*engines, "--replicas", str(replicas), "--tokens", str(tokens)),
    }
    async with processes(first, folder) as running:
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(OURS, ports, strict=True)}
        wanted = {"weight_sync": "127.0.0.1:1", "learner": "127.0.0.1:1", "generation-0": "127.0.0.1:1", **addresses}
        services = {s.name: s.command for s in plan(asked, run, url, wanted) if s.name in OURS}
        for address in json.loads(await until(announced)):  # they are no members of the run
            services["rollout-0"] += ("--generation", address)
        async with connect(url, name="bench", login=login_of(run), monitor_url=monitor, within=60) as bus:
            await ensure_run(bus, names, RunLimits(log_bytes=4 << 30, tasks_bytes=1 << 28, ledger_bytes=1 << 28))
            for kind in get_args(TaskKind):
                await TaskConsumer(bus, names, kind).ensure()
            async with processes(services, folder) as others:
                return await timed({**running, **others}, Learner(bus, names, asked.steps), samples, tokens)


async def timed(running: Mapping[str, Program], learner: Learner, samples: int, tokens: int) -> dict[str, float]:
    """From the moment when a share of the samples is there to the last one."""
    async with asyncio.timeout(SECONDS):
        work = asyncio.create_task(learner.run())
        while learner.samples < WARM * samples:
            await asyncio.sleep(0.01)
        began, before, done = time.perf_counter(), spent(running), learner.samples
        await work
    count = learner.samples - done
    each = {name: (now - before[name]) / count * 1e3 for name, now in spent(running).items()}
    counted = sum(each[name] for name in COUNTED)
    return {
        "a_second": count / (time.perf_counter() - began),
        "ms": counted,
        "us_a_token": counted * 1e3 / tokens,
        "all": sum(each.values()),
        **{name.removesuffix("-0"): ms for name, ms in each.items()},
        "rollout_mib": mib(running["rollout-0"]),
        "coordinator_mib": mib(running["coordinator"]),
    }


async def main(args: argparse.Namespace) -> None:
    report = Report("fleet", vars(args))
    for replicas in args.replicas:
        for tokens in args.tokens:
            with tempfile.TemporaryDirectory() as folder:
                found = await measure(pathlib.Path(folder), replicas, args.samples, tokens)
            report.add(replicas=replicas, tokens=tokens, samples=args.samples, **found)
    report.note(
        "ms: CPU milliseconds a sample of coordinator, rollout, generation's front and NATS together; all: with what "
        "scores and what stands in for the learner (two cores give at most 2000 / all samples a second); then each"
    )
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--tokens", type=int, nargs="+", default=[12, 2048], help="of an answer")
    parser.add_argument("--samples", type=int, default=8192)
    asyncio.run(main(parser.parse_args()))
