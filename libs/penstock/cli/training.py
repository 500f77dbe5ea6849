"""`penstock train` without its screen: everything started, watched to the end, stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from penstock import rpc
from penstock.bus import (
    Bucket,
    Bus,
    BusError,
    RunNames,
    connect,
    guard_store,
    server_command,
    write_config,
)
from penstock.bus.embedded import STORE, free_ports
from penstock.cli.credentials import login_of, make_secrets, nats_files_of, page_key_of, security_of, users_of
from penstock.cli.joining import follow_wanted
from penstock.cli.making import make_run
from penstock.cli.run_directory import ADDRESSES, RunRefused
from penstock.cli.streams import NATS
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.histories.history import summary_of
from penstock.names import ENDS
from penstock.recipes import Recipe
from penstock.rpc import Certificates
from penstock.supervisor import Scaling, Service, Supervisor, plan
from penstock.supervisor.devices import Devices, visible
from penstock.supervisor.plan import instances

START_SECONDS = 60.0
RENEW_SECONDS = 5.0
OVER_SECONDS = 3.0


@dataclasses.dataclass
class Training:
    """A run under way."""

    folder: pathlib.Path
    addresses: dict[str, str]
    supervisor: Supervisor
    stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub
    scheme: str = "http"

    @property
    def page(self) -> str:
        """The address of the live page."""
        return f"{self.scheme}://{self.addresses['dashboard']}/?key={page_key_of(self.folder)}"

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
    recipe: Recipe, folder: pathlib.Path, on_restart: Callable[[str, str], None], page_port: int | None = None
) -> AsyncIterator[tuple[Training, asyncio.Task[None]]]:
    """Starts everything of a run; gives it and the task that keeps it alive.

    That task fails with supervisor.ServiceFailed when a service cannot be kept alive. At the end of the block
    everything is stopped.
    """
    names = instances(recipe)
    nats_port, http_port, *ports = free_ports(2 + len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    if page_port is not None:
        addresses["dashboard"] = f"127.0.0.1:{page_port}"
    (folder / "nats").mkdir(exist_ok=True)
    make_secrets(folder, recipe.run)  # before anybody is started who reads them
    security, login, files = security_of(folder), login_of(folder), nats_files_of(folder)
    http = "http" if files is None else "https"
    url, monitor = f"nats://127.0.0.1:{nats_port}", f"{http}://127.0.0.1:{http_port}"
    users = users_of(folder, recipe.run)
    config = write_config(folder / "nats", folder / "nats" / STORE, nats_port, http_port, users=users, tls=files)
    supervisor = Supervisor(folder / "logs", on_restart)
    server = Service("nats", f"127.0.0.1:{nats_port}", tuple(server_command(config)))
    devices = Devices(visible())

    def given(name: str) -> dict[str, str]:
        return devices.variables(recipe, name, scaling.names)

    def one_more(name: str) -> Service:
        (service,) = plan(recipe, folder, url, {name: f"127.0.0.1:{free_ports(1)[0]}"}, given=given)
        return service

    scaling = Scaling(supervisor, one_more, names, "")
    try:
        services = list(plan(recipe, folder, url, addresses, given=given))
    except ValueError as error:
        raise RunRefused(str(error)) from error
    async with AsyncExitStack() as stack:
        keeping = asyncio.create_task(supervisor.keep([server, *services]))
        stack.push_async_callback(_end, supervisor, keeping)
        guard = guard_store(monitor, folder / "nats", lambda: supervisor.restart("nats"), tls=login.tls)
        stack.push_async_callback(_cancel, asyncio.create_task(guard))
        if files is not None:
            renewal = renew(Certificates.of_files(**dataclasses.asdict(files)), lambda: supervisor.pid("nats"))
            stack.push_async_callback(_cancel, asyncio.create_task(renewal))
        bus = await stack.enter_async_context(
            connect(url, name="penstock", login=login, monitor_url=monitor, within=START_SECONDS)
        )
        await make_run(bus, recipe)
        scaled = asyncio.create_task(follow_wanted(bus, RunNames(recipe.run), "", scaling))
        stack.push_async_callback(_cancel, scaled)
        (folder / ADDRESSES).write_text(json.dumps({**addresses, NATS: url}, indent=2) + "\n")
        channel = await stack.enter_async_context(rpc.channel(addresses["coordinator"], security=security))
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        try:
            yield Training(folder, addresses, supervisor, stub, http), keeping
        finally:  # hosts that joined end with the run, whatever has become of the coordinator
            await _tell_over(bus, RunNames(recipe.run), folder)


async def _tell_over(bus: Bus, names: RunNames, folder: pathlib.Path) -> None:
    """Says that the run is over, where nobody has said it; its streams are gone in a moment."""
    bucket, status = Bucket(bus, names), str(summary_of(folder).get("status", ""))
    with suppress(BusError, TimeoutError):  # a NATS that is gone already tells nobody anything
        async with asyncio.timeout(OVER_SECONDS):
            held = await bucket.get(names.over_key)
            if held is None or not held.value:
                await bucket.put(names.over_key, (status if status in ENDS else "stopped").encode())


async def renew(certificates: Certificates, pid: Callable[[], int | None]) -> None:
    """Has NATS read its certificates again whenever they change; for ever."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)  # nobody announces a file
        process = pid()
        if certificates.refresh() and process is not None:
            os.kill(process, signal.SIGHUP)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _end(supervisor: Supervisor, keeping: asyncio.Task[None]) -> None:
    await supervisor.stop()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
