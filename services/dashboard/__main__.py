"""penstock serve dashboard: the page of a run, and of a folder of runs."""

import argparse
import asyncio
import logging
import pathlib
import sys
from contextlib import AsyncExitStack

import uvicorn

from penstock import rpc
from penstock.bus import BusError, LoginRefused
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.membership import MemberState, NameTaken
from penstock.membership.beside import beside
from penstock.process import Part, flags, joined, security
from penstock.process.joining import PeerMoved
from penstock.rpc import is_local
from penstock.system import exits
from penstock.telemetry import logs
from services.dashboard.app import app

logger = logging.getLogger("services.dashboard")
CONNECTIONS = 256


async def serve(args: argparse.Namespace) -> None:
    held = security(args, listens=False)
    if args.nats is None:
        await _page(args, held, args.coordinator, None)
        return
    async with joined(args, args.run, held) as part:
        coordinator = args.coordinator or await part.address_of("coordinator")
        page = _page(args, held, coordinator, part)
        if args.coordinator is not None:
            await page
        else:  # one that has moved is looked up by the process that is started next
            async with beside(part.until_moved("coordinator", coordinator)):
                await page


async def _page(args: argparse.Namespace, held: rpc.Security, coordinator: str | None, part: Part | None) -> None:
    host, _, port = args.listen.rpartition(":")
    pair = held.certificates if held.certificates is not None and held.certificates.certificate is not None else None
    async with AsyncExitStack() as stack:
        stub = None
        if coordinator is not None:
            channel = await stack.enter_async_context(rpc.channel(coordinator, security=held))
            stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        key = args.key_file.read_text().strip() if args.key_file is not None else ""
        page = app(stub, [*args.host, host.strip("[]")], key, args.runs)
        config = uvicorn.Config(
            page,
            host=host,
            port=int(port),
            log_config=None,
            timeout_graceful_shutdown=1,
            limit_concurrency=CONNECTIONS,
            access_log=False,  # a line would hold the key
            ssl_certfile=pair.certificate if pair is not None else None,
            ssl_keyfile=pair.key if pair is not None else None,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)  # uvicorn announces its start by a flag only
        if server.started:
            bound = f"{host}:{server.servers[0].sockets[0].getsockname()[1]}"
            if args.announce is not None:
                _announce(args.announce, bound)
            if part is not None:
                await _take_part(part, args.advertise or bound, server, args.ends_with_run)
        await serving


async def _take_part(part: Part, address: str, server: uvicorn.Server, ends_with_run: bool) -> None:
    """Announces the page until it is told to end, or its run is over."""
    announcer = await part.announce(address)
    await part.say(MemberState.MEMBER_STATE_READY)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(beside(announcer.run()))
        if ends_with_run:
            await stack.enter_async_context(beside(_until_over(part, server)))
        while not server.should_exit:
            await asyncio.sleep(0.1)  # uvicorn announces its end by a flag only


async def _until_over(part: Part, server: uvicorn.Server) -> None:
    await part.watcher.until_over()
    logger.info("the run is over (%s): the page ends", part.watcher.over)
    server.should_exit = True


def _announce(path: pathlib.Path, address: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(address)
    temporary.replace(path)


def main() -> int:
    parser = flags("dashboard", "Serves the page of a run, and of a folder of runs, over HTTP.")
    parser.add_argument("--coordinator", help="HOST:PORT of the run's coordinator, where it is not found in the run")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of run directories, to be shown beside each other")
    parser.add_argument("--key-file", type=pathlib.Path, help="file with the key that a browser must show once")
    parser.add_argument("--host", action="append", default=[], help="a name by which the page may be called")
    args = parser.parse_args()
    if args.coordinator is None and args.runs is None and (args.nats is None or args.run is None):
        parser.error("there is nothing to show: give --coordinator, or --nats and --run to find it, or --runs")
    if args.key_file is None and not args.insecure and not is_local(args.listen):
        parser.error(f"--listen {args.listen}: everybody who reaches it could look; give --key-file, or --insecure")
    logs.configure(args.name, level=args.log_level)
    try:
        asyncio.run(serve(args))
    except (OSError, ValueError, LoginRefused, NameTaken) as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT
    except (BusError, PeerMoved) as error:
        logger.error("the page ends: %s", error)
        return exits.FAILED
    except SystemExit as error:  # how uvicorn says that it could not bind
        logger.error("cannot listen on %s", args.listen)
        return exits.BAD_INPUT if error.code else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
