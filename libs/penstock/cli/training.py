"""`penstock train` without its screen: everything started, watched to the end, stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from penstock import rpc
from penstock.bus import RunLimits, RunNames, connect, ensure_run, guard_store, server_command, write_config
from penstock.bus.embedded import STORE, free_ports
from penstock.cli.credentials import make_secrets, nats_token_of, page_key_of, security_of
from penstock.cli.streams import NATS
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.recipes import Recipe
from penstock.supervisor import Service, Supervisor, plan
from penstock.supervisor.plan import instances

START_SECONDS = 60.0


@dataclasses.dataclass
class Training:
    """A run under way."""

    folder: pathlib.Path
    addresses: dict[str, str]
    supervisor: Supervisor
    stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub

    @property
    def page(self) -> str:
        """The address of the live page."""
        return f"http://{self.addresses['dashboard']}/?key={page_key_of(self.folder)}"

    async def watch(self) -> AsyncIterator[pb.Run]:
        """The run whenever it changes, over restarts of the coordinator, until it is over."""
        while True:
            try:
                with rpc.translated():
                    async for answer in self.stub.WatchRun(pb.WatchRunRequest()):
                        yield answer.run
                        if answer.run.state in (pb.RUN_STATE_DONE, pb.RUN_STATE_STOPPED, pb.RUN_STATE_FAILED):
                            return
            except rpc.RpcError:
                await asyncio.sleep(0.5)  # it is starting, or being started again

    async def stop(self) -> None:
        """Asks the run to end after the step in progress, with a checkpoint. Raises rpc.RpcError."""
        await rpc.call(self.stub.StopRun(pb.StopRunRequest(reason="stopped by the user"), timeout=10))


@asynccontextmanager
async def training(
    recipe: Recipe, folder: pathlib.Path, on_restart: Callable[[str, str], None]
) -> AsyncIterator[tuple[Training, asyncio.Task[None]]]:
    """Starts everything of a run; gives it and the task that keeps it alive.

    That task fails with supervisor.ServiceFailed when a service cannot be kept alive. At the end of the block
    everything is stopped.
    """
    names = instances(recipe)
    nats_port, http_port, *ports = free_ports(2 + len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    url, monitor = f"nats://127.0.0.1:{nats_port}", f"http://127.0.0.1:{http_port}"
    (folder / "nats").mkdir(exist_ok=True)
    make_secrets(folder)  # before anybody is started who reads them
    token = nats_token_of(folder)
    config = write_config(folder / "nats", folder / "nats" / STORE, nats_port, http_port, token=token)
    supervisor = Supervisor(folder / "logs", on_restart)
    server = Service("nats", f"127.0.0.1:{nats_port}", tuple(server_command(config)))
    services = list(plan(recipe, folder, url, addresses))
    async with AsyncExitStack() as stack:
        keeping = asyncio.create_task(supervisor.keep([server, *services]))
        stack.push_async_callback(_end, supervisor, keeping)
        guarding = asyncio.create_task(guard_store(monitor, folder / "nats", lambda: supervisor.restart("nats")))
        stack.push_async_callback(_cancel, guarding)
        async with connect(url, name="penstock", token=token, monitor_url=monitor, within=START_SECONDS) as bus:
            limits = RunLimits(log_bytes=recipe.limits.log_bytes)
            await ensure_run(bus, RunNames(recipe.run), limits)
        (folder / "addresses.json").write_text(json.dumps({**addresses, NATS: url}, indent=2) + "\n")
        channel = await stack.enter_async_context(rpc.channel(addresses["coordinator"], security=security_of(folder)))
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        yield Training(folder, addresses, supervisor, stub), keeping


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _end(supervisor: Supervisor, keeping: asyncio.Task[None]) -> None:
    await supervisor.stop()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
