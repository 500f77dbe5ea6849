"""One connection to NATS whose every call ends: with an answer, or with a named error after a bounded time.

The NATS client buffers while it is disconnected and leaves some futures hanging for ever; it notices a silent server
only after four minutes by default. `Bus.ask` is the one way in which this package calls the server: it repeats the call
over timeouts and reconnections until `within` seconds are over, then raises `BusTimeout` naming the call. So a call
must be idempotent to be asked; those of this package are, by subject or by message id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import nats
import nats.errors
import nats.js
import nats.js.errors
from nats.aio.client import Client

from penstock.access import Login
from penstock.bus.errors import BusClosed, BusRefused, BusTimeout, LoginRefused, NotFound
from penstock.bus.guarding import store_problem
from penstock.names import family
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
T = TypeVar("T")

CALL_SECONDS = 10.0
ATTEMPT_SECONDS = 2.0
PING_SECONDS = 2
STILL_SECONDS = 5.0
_FIRST = asyncio.FIRST_COMPLETED
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_STREAM_STORE_FAILED = 10077

_TRANSIENT = (
    TimeoutError,
    asyncio.TimeoutError,
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
    nats.errors.FlushTimeoutError,
    nats.js.errors.NoStreamResponseError,
    ConnectionError,
)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, nats.js.errors.ServiceUnavailableError | nats.js.errors.ServerError):
        return error.err_code != _STREAM_STORE_FAILED
    return isinstance(error, _TRANSIENT)


class Bus:
    """A connection, made by `connect`. The other modules of this package are functions over it."""

    def __init__(
        self,
        client: Client,
        name: str,
        monitor_url: str | None,
        attempt_seconds: float,
        tls: ssl.SSLContext | None = None,
        denials: list[str] | None = None,
    ) -> None:
        self.client = client
        self.name = name
        self.monitor_url = monitor_url
        self.attempt_seconds = attempt_seconds
        self.tls = tls
        self._denials: list[str] = [] if denials is None else denials  # what the server has said no to, newest last
        self.js: nats.js.JetStreamContext = client.jetstream(timeout=attempt_seconds)
        self._streams: dict[str, str] = {}

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message the server takes, headers included."""
        return int(self.client.max_payload)

    @property
    def connected(self) -> bool:
        """Whether the server answered recently."""
        return bool(self.client.is_connected)

    @property
    def reconnections(self) -> int:
        """How often the connection was lost and made again: whoever only hears has missed what was said meanwhile."""
        return int(self.client.stats["reconnects"])

    async def ask(self, what: str, call: Callable[[], Awaitable[T]], *, within: float = CALL_SECONDS) -> T:
        """Calls the server until it answers. `call` is made anew for every attempt and must be idempotent.

        Args:
            what: the call's name in errors and in the list of waits.
            within: seconds after which `BusTimeout` is raised.

        Raises:
            BusTimeout: no answer within `within`.
            BusClosed: the connection was closed.
            NotFound, BusRefused: the server's answer is no.
        """
        end = time.monotonic() + within
        pause, last, denied = _FIRST_PAUSE, "", len(self._denials)
        with waiting(what, on="nats", deadline=within):
            while (left := end - time.monotonic()) > 0:
                if self.client.is_closed:
                    raise BusClosed(f"the connection {self.name!r} is closed; cannot {what}")
                try:
                    with _cancellation_kept():
                        async with asyncio.timeout(min(self.attempt_seconds, left)):
                            return await call()
                except nats.errors.ConnectionClosedError as error:
                    raise BusClosed(f"the connection {self.name!r} is closed; cannot {what}") from error
                except nats.js.errors.NotFoundError as error:
                    raise NotFound(what, error.err_code or 404, error.description or "not found") from error
                except Exception as error:
                    if not _is_transient(error):
                        if isinstance(error, nats.js.errors.APIError):
                            raise BusRefused(what, error.err_code or 0, error.description or str(error)) from error
                        raise
                    last = f"{type(error).__name__}: {error}".rstrip(": ")
                    if len(self._denials) > denied:  # a denied request is not answered; it may be another call's
                        last = f"{last}; the server says: {self._denials[-1]}"
                await asyncio.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, end - time.monotonic())))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise BusTimeout(what, within, await self._store_problem() or last)

    async def _store_problem(self) -> str:
        """What NATS says of its own disk: to a publisher it says nothing when it cannot write."""
        if self.monitor_url is None:
            return ""
        return await asyncio.to_thread(store_problem, self.monitor_url, self.tls)

    async def stream_of(self, subject: str) -> str:
        """Name of the stream that stores `subject`, remembered by the subject's first three tokens."""
        shared = family(subject)
        if shared not in self._streams:
            self._streams[shared] = await self.ask(
                f"stream of {subject}", lambda: self.js.find_stream_name_by_subject(subject)
            )
        return self._streams[shared]


@asynccontextmanager
async def connect(
    url: str,
    *,
    name: str,
    login: Login | None = None,
    monitor_url: str | None = None,
    within: float | None = CALL_SECONDS,
    attempt_seconds: float = ATTEMPT_SECONDS,
) -> AsyncIterator[Bus]:
    """Connects, and closes at the end of the block. A lost connection is re-established in the background for ever.

    Args:
        url: `nats://host:port`, several separated by commas.
        name: shown by the server's monitoring, and in errors.
        login: who this is to the server; nobody in particular if absent.
        monitor_url: the server's `http://host:8222`; `ensure_run` needs it to verify durability.
        within: seconds for the first connection; None waits until there is a server.
        attempt_seconds: how long one attempt of a call may take before it is repeated.

    Raises:
        BusTimeout: no server within `within`.
        LoginRefused: the server does not accept the login.
    """
    client, login, denials, failures = Client(), login or Login(), list[str](), list[str]()
    refused: asyncio.Future[LoginRefused] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        said = str(error) or type(error).__name__
        failures[:] = [said]
        if (why := unwelcome(error)) and not refused.done():
            refused.set_result(LoginRefused(f"connect to {url}", 0, why))
        if "permissions violation" in str(error).lower():
            denials.append(str(error))
        logger.info("connection to NATS: %s", said, extra={"connection": name})

    async def on_disconnect() -> None:
        if not client.is_closed:
            logger.warning("lost the connection to NATS", extra={"connection": name})

    async def on_reconnect() -> None:
        logger.info("connected to NATS again", extra={"connection": name})

    async def dial() -> None:
        await client.connect(
            [part.strip() for part in url.split(",")],
            name=name,
            **login.options(),
            connect_timeout=2,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=PING_SECONDS,
            max_outstanding_pings=2,
            pending_size=32 << 20,
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
        )

    dialling = asyncio.create_task(dial())
    try:
        with waiting("connection", on=f"nats {url}", deadline=within):
            either: set[asyncio.Future[Any]] = {dialling, refused}
            seconds = STILL_SECONDS if within is None else within
            while not (done := (await asyncio.wait(either, timeout=seconds, return_when=_FIRST))[0]) and within is None:
                logger.warning("still waiting for NATS at %s (%s)", url, failures[-1] if failures else "no answer")
        if dialling in done:
            dialling.result()
        elif refused in done:
            raise refused.result()
        else:
            raise BusTimeout(f"connect to {url}", within or 0.0)
    except BaseException as error:
        dialling.cancel()
        await _close(client)
        if isinstance(error, nats.errors.Error):
            raise LoginRefused(f"connect to {url}", 0, unwelcome(error) or str(error)) from error
        raise
    try:
        yield Bus(client, name, monitor_url, attempt_seconds, login.tls, denials)
    finally:
        await _close(client)


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """Python 3.11's wait_for, which the client uses, loses a cancellation that comes together with the answer, be it a
    yes or a no. Raises CancelledError for one that was lost in the block."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def unwelcome(error: Exception) -> str:
    """Why a server will not let this connection in, however often it asks; empty where it may another time."""
    said = str(error)
    if "authorization violation" in said.lower():
        return "it knows no such user, password or token (--nats-token-file names the file with ours)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not to be trusted (--tls-ca names the authority's): {error.verify_message}"
    if isinstance(error, ssl.SSLError) and ("ALERT" in said or "alert" in said):
        return f"the server does not take our certificate (--tls-certificate, --tls-key): {error.reason or said}"
    return ""


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(2):
            await client.close()
    except (TimeoutError, ConnectionError, nats.errors.Error) as error:
        logger.info("the connection to NATS was down when it was closed: %s", error)
