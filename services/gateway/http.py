"""Uvicorn as a part of a process: it listens for a block, and the process' own signals end it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from penstock.rpc import Certificates, Security

logger = logging.getLogger(__name__)
CONNECTIONS = 4096
ASKS_SECONDS = 30.0
"""In which a connection must have sent the head of a request, and then the whole of it."""
LOOK_SECONDS = 60.0
"""How often the certificate's files are looked at: they announce nothing."""


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closes a connection that asks nothing: it holds one of CONNECTIONS. Between requests uvicorn itself does."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._asks = asyncio.get_running_loop().call_later(ASKS_SECONDS, self._closed)

    def _closed(self) -> None:
        # Between two requests uvicorn itself counts, and has stopped where the next one has begun.
        counts = getattr(self, "timeout_keep_alive_task", None) is not None
        if self.cycle is None or (self.cycle.response_complete and not counts):
            self.transport.close()
        else:  # what it asked is answered, however long that takes; then it is looked at again
            self._asks = asyncio.get_running_loop().call_later(ASKS_SECONDS, self._closed)

    def connection_lost(self, error: Exception | None) -> None:
        self._asks.cancel()
        super().connection_lost(error)


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
        http=_Connection,
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
        renewing = asyncio.create_task(_renewed(config, held)) if pair is not None else None
        try:
            yield "http" if pair is None else "https", f"{host}:{bound.getsockname()[1]}"
        finally:
            if renewing is not None:
                renewing.cancel()
            server.should_exit = True
            await work


async def _renewed(config: uvicorn.Config, held: Certificates | None) -> None:
    """Shows a certificate that has come in the former one's place, for ever: connections that are open keep theirs. One
    that cannot be read, being half written, leaves the former in use, and is read again."""
    assert held is not None and held.certificate is not None
    shown = held.changes
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        held.refresh()
        if held.changes == shown or config.ssl is None:
            continue
        try:
            config.ssl.load_cert_chain(held.certificate, held.key)
        except (OSError, ssl.SSLError) as error:
            logger.error("the new certificate cannot be shown yet: %s", error)
        else:
            shown = held.changes
