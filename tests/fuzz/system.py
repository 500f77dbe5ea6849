"""Everything of a run that starts without an engine or a gradient, as real servers on a real NATS.

Coordinator, rollout, environment, reward_model and weight_sync are processes; generation has the named fake engine
behind it, and the learner's eyes (what follows the streams, judges groups and answers calls) are here without its
gradient.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import yaml

from penstock import rpc
from penstock.bus import Bucket, Bus, EmbeddedServer, RunLimits, RunNames, connect, ensure_run
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.generation.v1 import generation_pb2, generation_pb2_grpc
from penstock.learner.v1 import learner_pb2_grpc
from penstock.recipes import resolve
from penstock.supervisor.plan import launcher
from penstock.system.parent_death import mortal
from penstock.tiny_model import make_model
from services.generation.engine import EngineSettings
from services.generation.engine_host import EngineHost
from services.generation.fake_engine_testing import FakeEngine
from services.generation.server import Generation
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources
from services.learner.interface.policy import Takes
from services.learner.leader.epochs import Epoch
from services.learner.leader.follow import Following
from services.learner.leader.judge import Judge
from services.learner.leader.server import Learner
from services.learner.leader.status import Status
from services.reward_model.models_testing import make_reward_model

NAMES = RunNames("fuzz")
TAKES = Takes(vocabulary=64, longest=96)
START_SECONDS = 90.0


@dataclass
class System:
    """What is attacked.

    addresses: of every server, by name. processes: by name. following: what the learner has read. learner: its tasks,
    none of which may end.
    """

    bus: Bus
    folder: pathlib.Path
    following: Following
    learner: list[asyncio.Task[None]]
    addresses: dict[str, str] = field(default_factory=dict)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    def resident(self) -> dict[str, int]:
        """Bytes of memory that each process holds; 0 for one that has ended."""
        found = {name: 0 for name in self.processes}
        for name, process in self.processes.items():
            if process.returncode is not None:
                continue
            pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            found[name] = pages * os.sysconf("SC_PAGE_SIZE")
        return found

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]


@asynccontextmanager
async def system(folder: pathlib.Path) -> AsyncIterator[System]:
    """The run under way in `folder`, for the block; nothing of it is left at the end."""
    recipe = _recipe(folder)
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(EmbeddedServer(folder / "nats", folder / "nats.log"))
        bus = await stack.enter_async_context(connect(nats.url, name="fuzz", monitor_url=nats.monitor_url))
        await ensure_run(bus, NAMES, RunLimits(1 << 30, -1, 1 << 28, 1 << 28, 1 << 30))
        following = Following(bus, NAMES, groups_per_step=2, trained_step=0, log_cursor=0, takes=TAKES)
        sources = Sources({"": AdvantageSamples(resolve(yaml.safe_load(recipe.read_text())))})
        judge = Judge(bus, NAMES, following, sources, min_fraction=1.0, epoch=Epoch(Bucket(bus, NAMES), 1))
        learner = [asyncio.create_task(work()) for work in (following.run, judge.run)]
        stack.push_async_callback(_cancel, learner)
        found = System(bus, folder, following, learner)
        found.addresses["generation"] = await _serve_generation(stack)
        found.addresses["learner"] = await _serve_learner(stack, following)
        stack.push_async_callback(_end, found)
        await _start(found, "weight_sync", "--directory", folder / "versions", "--staged-gib", "0.01")
        await _start(found, "environment", "--workers", "1")
        model = await asyncio.to_thread(make_reward_model, _folder(folder / "reward_model"))
        await _start(found, "reward_model", "--model", model)
        streams = ("--recipe", recipe, "--nats", nats.url)
        others = ("--generation", found.addresses["generation"], "--environment", found.addresses["environment"])
        await _start(found, "rollout", *streams, *others)
        await _start(found, "coordinator", *streams, "--run-directory", folder)
        yield found


def _folder(path: pathlib.Path) -> pathlib.Path:
    path.mkdir()
    return path


def _recipe(folder: pathlib.Path) -> pathlib.Path:
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "train.jsonl").write_text("".join(f'{{"prompt": "b{c}"}}\n' for c in "acdefghij"))
    recipe = {
        "run": NAMES.run,
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1000, "groups_per_step": 2, "group_size": 2},
        "sampling": {"max_tokens": 4},
        "staleness": {"max_versions": 4},
        "telemetry": {"tensorboard": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


async def _serve_generation(stack: AsyncExitStack) -> str:
    host = EngineHost(EngineSettings("model", max_running=2, max_context=96), "g0")
    host._engine = FakeEngine(PolicyVersion(epoch=1, step=0))  # type: ignore[assignment]
    host.state = generation_pb2.GetEngineResponse.STATE_READY
    await host.gate.open(0)
    server = await stack.enter_async_context(rpc.Server("generation", reflection=True))
    adder = generation_pb2_grpc.add_GenerationServiceServicer_to_server
    server.add(adder, Generation(host, vocabulary=TAKES.vocabulary))
    await server.start()
    return server.address


async def _serve_learner(stack: AsyncExitStack, following: Following) -> str:
    server = await stack.enter_async_context(rpc.Server("learner", reflection=True))
    adder = learner_pb2_grpc.add_LearnerServiceServicer_to_server
    server.add(adder, Learner(Status(max_steps=1000), following, "checkpoints"))
    await server.start()
    return server.address


async def _start(found: System, name: str, *flags: object) -> None:
    told = found.folder / f"{name}.address"
    command = [*launcher(name), "--reflection", "--announce", str(told), *map(str, flags)]
    with (found.folder / f"{name}.log").open("wb") as log:
        found.processes[name] = await asyncio.create_subprocess_exec(
            *mortal(command, os.getpid()), stdout=log, stderr=log, start_new_session=True
        )
    async with asyncio.timeout(START_SECONDS):
        while not told.exists():
            assert found.processes[name].returncode is None, found.last_words(name)
            await asyncio.sleep(0.05)  # a file announces nothing
    found.addresses[name] = told.read_text()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _end(found: System) -> None:
    for process in reversed(found.processes.values()):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
