"""The common frame of a service's `__main__`.

    def main() -> None:
        parser = flags("weight_sync", "Stores and serves policy versions.")
        parser.add_argument("--directory", ...)
        run(parser.parse_args(), serve)

    async def serve(process: Process, args) -> None:
        process.server.add(...)
        await process.serving()          # until SIGTERM

Secrets never stand on a command line: tokens come from files, or from PENSTOCK_TOKEN.
"""

import argparse
import asyncio
import dataclasses
import logging
import os
import pathlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from penstock.access import Identity, Login
from penstock.rpc import AddressInUse, Security, Server, is_local
from penstock.system import exits
from penstock.system.disk import DiskFull
from penstock.telemetry import logs, metrics, tracing

logger = logging.getLogger(__name__)


class Process:
    """A running service process: its server, and what clients it opens should use."""

    def __init__(self, args: argparse.Namespace, server: Server, security: Security) -> None:
        self.name: str = args.name
        self.server = server
        self.security = security
        self._announce: pathlib.Path | None = args.announce

    async def start(self) -> None:
        """Binds the server and says where it is. Nothing may be added to it afterwards."""
        await self.server.start()
        if self._announce is not None:
            self.server.announce(self._announce)

    async def serving(self, *work: Coroutine[Any, Any, None]) -> None:
        """Starts, serves until SIGTERM or SIGINT, drains. `work` runs beside it and is cancelled at the end.

        Work that fails ends the process: a server whose heart stopped must not look alive.
        """
        await self.start()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            await self.server.wait()
            for task in tasks:
                task.cancel()


Body = Callable[[Process, argparse.Namespace], Awaitable[None]]


def flags(service: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all services share."""
    parser = argparse.ArgumentParser(
        prog=f"penstock serve {service}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--name", default=service, help="the instance's name in logs, waits and traces")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT of the gRPC server; port 0 takes a free one")
    parser.add_argument("--announce", type=pathlib.Path, help="file to which the bound address is written")
    parser.add_argument(
        "--metrics-port", type=int, default=0, help="port of the Prometheus endpoint; 0 takes a free one"
    )
    parser.add_argument(
        "--trace-file", type=pathlib.Path, help="file for spans where OTEL_EXPORTER_OTLP_ENDPOINT is not set"
    )
    parser.add_argument("--trace-fraction", type=float, default=1.0, help="share of traces that are recorded")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--reflection", action="store_true", help="let tools list the RPCs (not in production)")
    parser.add_argument("--token-file", type=pathlib.Path, help="file with KIND:SECRET, or with one token for all")
    parser.add_argument("--callers-file", type=pathlib.Path, help="file that says whom to know by their kind's token")
    parser.add_argument("--insecure", action="store_true", help="listen beyond loopback with neither token nor TLS")
    parser.add_argument("--tls-ca", type=pathlib.Path, help="PEM of the authority that signs peers")
    parser.add_argument("--tls-certificate", type=pathlib.Path, help="PEM certificate of this service")
    parser.add_argument("--tls-key", type=pathlib.Path, help="PEM key of this service")
    return parser


def nats_flags(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the flags of a service that follows a run's streams; `nats_login` reads what they name."""
    parser.add_argument("--nats", required=required, help="nats://HOST:PORT")
    parser.add_argument(
        "--nats-token-file", type=pathlib.Path, help="file with what NATS wants: USER:PASSWORD, or a token"
    )


def nats_login(args: argparse.Namespace, held: Security) -> Login:
    """How to show oneself to NATS: by --nats-token-file or PENSTOCK_NATS_TOKEN, with the certificates of `held`.

    Raises OSError.
    """
    path: pathlib.Path | None = args.nats_token_file
    text = path.read_text() if path is not None else os.environ.get("PENSTOCK_NATS_TOKEN", "")
    return Login.parsed(text, held.certificates.context() if held.certificates is not None else None)


def security(args: argparse.Namespace, *, listens: bool = True) -> Security:
    """The credentials that the flags name. listens: whether a gRPC server shows them, and not a caller alone.

    Raises OSError, or ValueError for half of a pair, what is no PEM, and what no server may listen with.
    """
    found = Security.of_files(
        token_file=args.token_file,
        callers_file=args.callers_file,
        authority=args.tls_ca,
        certificate=args.tls_certificate,
        key=args.tls_key,
        named=True,
    )
    if args.token_file is None and (text := os.environ.get("PENSTOCK_TOKEN")):
        identity = Identity.parsed(text)
        found = dataclasses.replace(found, identity=identity, token=None if identity else text)
    if listens:
        found.check_listening(args.listen)
    if not (args.insecure or found.token or found.callers or found.tls or is_local(args.listen)):
        raise ValueError(
            f"--listen {args.listen}: everybody who reaches it could call; give --token-file with TLS, or --insecure"
        )
    return found


def serve_metrics(port: int, held: Security) -> int:
    """Serves Prometheus, to holders of a certificate alone where these settings are mutual TLS. Raises OSError."""
    if held.certificates is None or held.certificates.certificate is None:
        return metrics.serve(port)
    c = held.certificates
    return metrics.serve(port, certificate=c.certificate, key=c.key, authority=c.authority)


@contextmanager
def observed(args: argparse.Namespace, name: str, run_name: str = "") -> Iterator[None]:
    """The process's logs and traces, under the name it goes by; its last spans are written at the end."""
    logs.configure(name, run=run_name or None, level=args.log_level)
    tracer = tracing.configure(name, run=run_name or None, path=args.trace_file, ratio=args.trace_fraction)
    try:
        yield
    finally:
        if tracer is not None:
            tracer.shutdown()


def run(args: argparse.Namespace, body: Body, run_name: str = "") -> int:
    """Runs a service to its end; the exit code. A taken port and unreadable credentials end it with one clear line."""
    with observed(args, args.name, run_name):
        return _served(args, body)


def _served(args: argparse.Namespace, body: Body) -> int:
    try:
        credentials = security(args)
        serve_metrics(args.metrics_port, credentials)
    except (OSError, ValueError) as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT

    async def main() -> None:
        async with Server(args.name, args.listen, security=credentials, reflection=args.reflection) as server:
            await body(Process(args, server, credentials), args)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except (DiskFull, ExceptionGroup) as error:
        full = _disk_full(error)
        if full is None:
            raise
        logger.error("cannot go on: %s", full)
        return exits.FAILED  # worth starting again: room may come
    except AddressInUse as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT
    return exits.DONE


def _disk_full(error: BaseException) -> DiskFull | None:
    """The DiskFull that an error is, or holds."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _disk_full(each)) is not None), None)
    return error if isinstance(error, DiskFull) else None
