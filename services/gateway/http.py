"""Uvicorn as a part of a process: it listens for a block, and the process' own signals end it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from penstock.rpc import Security

CONNECTIONS = 4096


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listen: str, security: Security) -> AsyncIterator[tuple[str, str]]:
    """Serves for the block; the scheme, and the HOST:PORT that is listened on. Raises OSError for a port that is taken.

    With the certificate of `security`, where it has one.
    """
    held = security.certificates
    pair = held if held is not None and held.certificate is not None else None
    host, _, port = listen.rpartition(":")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # a line would hold the key
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
        ssl_certfile=pair.certificate if pair is not None else None,
        ssl_keyfile=pair.key if pair is not None else None,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host.strip("[]"), int(port)), family=family, backlog=CONNECTIONS) as bound:
        server = _Server(config)
        work = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield "http" if pair is None else "https", f"{host}:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            await work
