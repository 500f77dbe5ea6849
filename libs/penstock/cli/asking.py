"""Whom commands ask about a run: its coordinator, or its files where nothing of it runs any more.

Where the run's directory is elsewhere, as with containers, PENSTOCK_COORDINATOR says where the coordinator answers, and
PENSTOCK_TLS where the operator's certificate is, if it wants one.
"""

import asyncio
import json
import os
import pathlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias, TypeVar

from penstock import rpc
from penstock.bus import BusError, connect
from penstock.chat import ChatTokenizer, HasText, TemplateError, Texts
from penstock.cli.credentials import login_of, security_of
from penstock.cli.run_directory import ADDRESSES, RunRefused, locked
from penstock.cli.streams import NATS, run_server
from penstock.cli.words import unknown_run
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.coordinator.v1.coordinator_pb2 import GetRunRequest
from penstock.histories.history import summary_of
from penstock.kube.containers import COORDINATOR as GIVEN
from penstock.recipes import Recipe, RecipeError, recorded
from penstock.showing.over import RunOver
from penstock.system import exits
from penstock.terminal import failed

Stub: TypeAlias = "coordinator_pb2_grpc.CoordinatorServiceAsyncStub"
T = TypeVar("T")
COORDINATOR = "coordinator"
NAME_SECONDS = 5.0
TLS = "PENSTOCK_TLS"
"""The variable with a folder that has ca.crt, tls.crt and tls.key, as a Secret of cert-manager's has them."""


def ask(run: str, runs: pathlib.Path, call: Callable[[Stub], Awaitable[T]]) -> T:
    """What `call` says of the run below `runs`; ends the command with a clear line if nobody can be asked."""
    folder = runs / run
    here = (folder / "recipe.yaml").is_file()
    given = "" if here else os.environ.get(GIVEN, "")
    if not given and not here:
        raise failed(unknown_run(run, runs))

    async def asked() -> T:
        async with AsyncExitStack() as stack:
            address = given or await stack.enter_async_context(coordinator_of(folder))
            security = shown_to(folder, address) if not given or folder.is_dir() else _certified()
            stub = coordinator_pb2_grpc.CoordinatorServiceStub(
                await stack.enter_async_context(rpc.channel(address, security=security))
            )
            if given:
                await _check_is_of(run, stub, address)
            return await rpc.call(call(stub))

    try:
        return asyncio.run(asked())
    except rpc.errors.Unavailable as error:
        raise failed(f"the coordinator of {run!r} does not answer: {error}", exits.FAILED) from error
    except (rpc.RpcError, BusError) as error:
        raise failed(str(error), exits.FAILED) from error
    except OSError as error:
        raise failed(f"run {run!r} is another user's, or not whole: {error}") from error
    except (RunRefused, RecipeError, TemplateError, ValueError) as error:
        raise failed(f"run {run!r}: {error}") from error


async def _check_is_of(run: str, stub: Stub, address: str) -> None:
    """Raises RunRefused where another run's coordinator answers: what is asked may end it."""
    told = (await rpc.call(stub.GetRun(GetRunRequest(), timeout=NAME_SECONDS))).run.name
    if told != run:
        raise RunRefused(f"the coordinator at {address} ({GIVEN}) is that of {told!r}")


@asynccontextmanager
async def coordinator_of(folder: pathlib.Path) -> AsyncIterator[str]:
    """Where a run's coordinator answers; for one that is not under way, the like of it, while the block lasts.

    What answers then is written where commands look, so that others may ask meanwhile.
    Raises RunRefused, RecipeError, TemplateError, OSError, BusError.
    """
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except RunRefused:
            told = folder / ADDRESSES
            address = json.loads(told.read_text()).get(COORDINATOR) if told.is_file() else None
            if address is None:
                raise RunRefused("it is being started; ask again") from None
            yield address
            return
        if not (folder / "nats").is_dir():
            raise RunRefused(f"its streams are not there any more ({folder / 'nats'}); metrics.jsonl has its numbers")
        recipe = recorded(folder / "recipe.yaml")
        reading = asyncio.create_task(asyncio.to_thread(_texts, recipe, folder))  # slow, and so is a server's start
        try:
            nats = await stack.enter_async_context(run_server(folder, "nats-read.log"))
            bus = await stack.enter_async_context(connect(nats.url, name="penstock", login=login_of(folder)))
        finally:
            await asyncio.wait([reading])
        over = await RunOver.of(bus, recipe, summary_of(folder), reading.result())
        socket = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-"))) / "coordinator"
        server = await stack.enter_async_context(rpc.Server(COORDINATOR, f"unix:{socket}"))
        server.add(coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server, over)
        await server.start()
        _tell(folder, server.address, nats.url)
        yield server.address


def shown_to(folder: pathlib.Path, address: str) -> rpc.Security:
    """What a command shows at an address: nothing to a socket that this user alone can reach. Raises OSError."""
    return rpc.Security() if address.startswith("unix:") else security_of(folder)


def _certified() -> rpc.Security:
    """What a command shows that knows the run by variables alone. Raises OSError, ValueError."""
    told = os.environ.get(TLS, "")
    if not told:
        return rpc.Security()
    authority, certificate, key = (pathlib.Path(told, name) for name in ("ca.crt", "tls.crt", "tls.key"))
    return rpc.Security.of_files(authority=authority, certificate=certificate, key=key)


def _texts(recipe: Recipe, folder: pathlib.Path) -> HasText:
    """The texts that the run kept; else the tokenizer that it had: its model's, or what it exported.

    Raises TemplateError, RunRefused, OSError.
    """
    try:
        return Texts(folder)
    except FileNotFoundError:
        pass  # an earlier Penstock's run, or a tokenizer whose texts cannot be kept
    for path in (recipe.model.path, folder / "export"):
        if (pathlib.Path(path) / "tokenizer_config.json").is_file():
            return ChatTokenizer(str(path), recipe.data.thinking, recipe.data.control_tokens)
    raise RunRefused(f"its tokenizer is neither in {recipe.model.path} (model.path) nor in {folder / 'export'}")


def _tell(folder: pathlib.Path, coordinator: str, nats: str) -> None:
    beside = folder / f".{ADDRESSES}"
    beside.write_text(json.dumps({COORDINATOR: coordinator, NATS: nats}, indent=2) + "\n")
    os.replace(beside, folder / ADDRESSES)
