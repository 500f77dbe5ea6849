"""What a long run costs who folds its ledger: seconds to start and memory, from snapshots and from the first entry on.

A run of fake groups on a real NATS; every number is of a process of its own, which folds as the coordinator does:

    whole     starts without a snapshot and forgets nothing: how it was
    life      follows the run from its first entry to its last, forgets, and writes snapshots
    restart   starts from the newest snapshot
"""

import argparse
import asyncio
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from nats.js.api import PubAck

from penstock.bus import Bus, EmbeddedServer, RunLimits, RunNames, connect, ensure_run, stream_state
from penstock.learner.v1 import learner_pb2
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.state.following import Following
from services.coordinator.state.peers import Peers
from services.coordinator.state.snapshots import Snapshots
from tests.bench.report import Report

PER_STEP, SIZE, METRICS, IN_FLIGHT = 32, 8, 60, 512
LIVES = ("whole", "life", "restart")


def entries(names: RunNames, groups: int) -> Iterator[tuple[str, bytes]]:
    """A run's decisions: each step's admissions, its batch and its report."""
    for step in range(1, groups // PER_STEP + 1):
        numbers = range((step - 1) * PER_STEP, step * PER_STEP)
        record = pb.BatchRecord(step=step)
        for number in numbers:
            event = pb.LedgerEvent(group=f"g{number:08d}")
            event.admitted.group_size, event.admitted.row, event.admitted.draw = SIZE, number % 1000, number
            event.at.GetCurrentTime()
            yield names.ledger_group_subject(event.group), event.SerializeToString()
            record.groups.add(group=event.group, indices=range(SIZE), log_sequences=range(SIZE), reward=0.5)
        yield names.ledger_batch_subject(step), record.SerializeToString()
        report = pb.StepReport(step=step, metrics={f"rl.some.metric.{i}": i / 7 for i in range(METRICS)})
        yield names.ledger_step_subject(step), report.SerializeToString()


async def fill(bus: Bus, names: RunNames, groups: int) -> None:
    """Writes the run's ledger, many entries in flight."""
    await ensure_run(bus, names, RunLimits(log_bytes=1 << 20, tasks_bytes=1 << 20, blob_bytes=1 << 20))
    waiting = set[asyncio.Future[PubAck]]()
    for subject, payload in entries(names, groups):
        waiting.add(await bus.js.publish_async(subject, payload, wait_stall=60))
        if len(waiting) >= IN_FLIGHT:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*waiting)


async def live(url: str, run: str, life: str) -> dict[str, float]:
    """One process's life: seconds until it is where the ledger ends, and MiB that it takes more than at its start."""
    names, peers = RunNames(run), Peers({}, {})
    async with connect(url, name="bench") as bus:
        following = Following(bus, names)

        async def learner() -> learner_pb2.GetStatusResponse:
            return learner_pb2.GetStatusResponse(checkpoint_step=following.ledger.step)

        peers.learner = learner  # type: ignore[method-assign]
        snapshots = Snapshots(bus, names, following, peers, {}, lambda: following.ledger.step)
        end = (await stream_state(bus, names.ledger)).last_sequence
        before, began = resident(), time.perf_counter()
        if life == "life":
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(snapshots.run()),
                    tasks.create_task(following.follow_ledger(lambda: None)),
                ]
                await following.until(lambda: following.ledger.sequence >= end)
                for each in work:
                    each.cancel()
        else:
            await following.restore({}, end)
        assert following.ledger.sequence == end, (following.ledger.sequence, end)
        return {"seconds": time.perf_counter() - began, "mib": resident() - before}


def resident() -> float:
    """The most MiB this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def measure(sizes: list[int]) -> Report:
    """Every size, one after the other, each on a server of its own."""
    report = Report("ledger", {"groups": sizes, "per_step": PER_STEP, "metrics": METRICS})
    for groups in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            async with EmbeddedServer(root / "nats", root / "nats.log") as server:
                report.add(groups=groups, **await _one(server, groups))
    report.note("seconds until the ledger's end is folded; MiB above what the process has when it is connected")
    return report


async def _one(server: EmbeddedServer, groups: int) -> dict[str, float]:
    async with connect(server.url, name="bench", monitor_url=server.monitor_url) as bus:
        await fill(bus, RunNames("r"), groups)
        cells = {"stream_mib": round((await stream_state(bus, RunNames("r").ledger)).bytes / 2**20, 1)}
    for life in LIVES:
        command = [sys.executable, "-m", "tests.bench.ledger", "--live", life, "--url", server.url]
        done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
        cells |= {f"{life}_{key}": round(value, 2) for key, value in said.items()}
    return cells


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--live", choices=LIVES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.live:
        sys.stdout.write(json.dumps(asyncio.run(live(given.url, "r", given.live))) + "\n")
    else:
        asyncio.run(measure(given.groups)).finish()
