"""penstock serve dashboard: the page of a run, and of a folder of runs."""

import argparse
import asyncio
import logging
import pathlib
import sys
from contextlib import AsyncExitStack

import uvicorn

from penstock import rpc
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.process import flags, security
from penstock.system import exits
from penstock.telemetry import logs
from services.dashboard.app import app

logger = logging.getLogger("services.dashboard")
CONNECTIONS = 256


async def serve(args: argparse.Namespace) -> None:
    host, _, port = args.listen.rpartition(":")
    held = security(args, listens=False)
    pair = held.certificates if held.certificates is not None and held.certificates.certificate is not None else None
    async with AsyncExitStack() as stack:
        stub = None
        if args.coordinator is not None:
            channel = await stack.enter_async_context(rpc.channel(args.coordinator, security=held))
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
        if server.started and args.announce is not None:
            bound = server.servers[0].sockets[0].getsockname()[1]
            _announce(args.announce, f"{host}:{bound}")
        await serving


def _announce(path: pathlib.Path, address: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(address)
    temporary.replace(path)


def main() -> int:
    parser = flags("dashboard", "Serves the page of a run, and of a folder of runs, over HTTP.")
    parser.add_argument("--coordinator", help="HOST:PORT of the run's coordinator")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of run directories, to be shown beside each other")
    parser.add_argument("--key-file", type=pathlib.Path, help="file with the key that a browser must show once")
    parser.add_argument("--host", action="append", default=[], help="a name by which the page may be called")
    args = parser.parse_args()
    if args.coordinator is None and args.runs is None:
        parser.error("there is nothing to show: give --coordinator, --runs, or both")
    logs.configure(args.name, level=args.log_level)
    try:
        asyncio.run(serve(args))
    except (OSError, ValueError) as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT
    except SystemExit as error:  # how uvicorn says that it could not bind
        logger.error("cannot listen on %s", args.listen)
        return exits.BAD_INPUT if error.code else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
