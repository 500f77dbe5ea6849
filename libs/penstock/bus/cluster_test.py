"""Three NATS servers as one: the leader of the log is killed, and every sample is in it once."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from penstock.bus import RunLimits, RunNames, connect, ensure_run, publish_once, read, stream_state
from penstock.bus.connection import Bus
from penstock.bus.embedded import free_ports, server_command, write_config
from penstock.bus.errors import BusTimeout

SAMPLES = 300


class Cluster:
    """The servers by name."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        ports = free_ports(3 * count)
        self.clients, self.monitors, gossip = ports[:count], ports[count : 2 * count], ports[2 * count :]
        self.running: dict[str, asyncio.subprocess.Process] = {}
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in gossip)
        self.commands = {}
        for i, port in enumerate(self.clients):
            config = write_config(folder / str(i), folder / str(i) / "js", port, self.monitors[i])
            joins = f'cluster {{ name: c, listen: "127.0.0.1:{gossip[i]}", routes: [{routes}] }}\n'
            config.write_text(config.read_text() + joins)
            self.commands[f"penstock-{port}"] = server_command(config)

    @property
    def url(self) -> str:
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.clients)

    async def start(self, name: str) -> None:
        quiet = asyncio.subprocess.DEVNULL
        self.running[name] = await asyncio.create_subprocess_exec(*self.commands[name], stdout=quiet, stderr=quiet)

    async def kill(self, name: str) -> None:
        self.running[name].kill()
        await self.running.pop(name).wait()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    made = Cluster(folder)
    async with AsyncExitStack() as stack:
        for name in made.commands:
            await made.start(name)
        try:
            yield made
        finally:
            for name in list(made.running):
                await made.kill(name)
        await stack.aclose()


async def made_run(bus: Bus, names: RunNames) -> None:
    """A cluster needs a moment until it has a leader that makes streams."""
    limits = RunLimits(1 << 26, -1, 1 << 24, 1 << 24, 1 << 26, replicas=3)
    async with asyncio.timeout(60):
        while True:
            try:
                return await ensure_run(bus, names, limits)
            except BusTimeout:
                continue


async def test_killing_the_leader_of_the_log_loses_no_sample_and_doubles_none(tmp_path: Path) -> None:
    names, rng = RunNames("r1"), random.Random(5)
    async with cluster(tmp_path) as servers:
        monitor = f"http://127.0.0.1:{servers.monitors[0]}"
        async with connect(servers.url, name="t", monitor_url=monitor, within=60) as bus:
            await made_run(bus, names)

            async def publish(number: int) -> None:
                await publish_once(bus, names.log_subject(number, 0), rng.randbytes(rng.randint(1, 4000)), within=120)

            async def disturb() -> None:
                for _ in range(2):
                    info = await bus.ask("leader of the log", lambda: bus.js.stream_info(names.log), within=60)
                    assert info.cluster is not None and info.cluster.leader is not None
                    await servers.kill(info.cluster.leader)
                    await asyncio.sleep(rng.uniform(0.2, 1.0))  # how long it is gone is a part of the disturbance
                    await servers.start(info.cluster.leader)

            places = asyncio.Semaphore(8)

            async def one(number: int) -> None:
                async with places:
                    await publish(number)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(disturb())
                for number in range(SAMPLES):
                    tasks.create_task(one(number))
            state = await stream_state(bus, names.log)
            subjects = [entry.subject async for entry in read(bus, names.log, live=False)]
    assert state.messages == SAMPLES
    assert sorted(subjects) == sorted(names.log_subject(number, 0) for number in range(SAMPLES))
