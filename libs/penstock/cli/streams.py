"""A run's streams for commands that only read: those of a run under way, or the files of one that is not."""

import json
import pathlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from penstock.access import EVERYTHING
from penstock.bus import Bus, EmbeddedServer, User, connect
from penstock.cli.credentials import OPERATOR, login_of, nats_files_of
from penstock.cli.run_directory import ADDRESSES, RunRefused, locked

NATS = "nats"  # in ADDRESSES


@asynccontextmanager
async def streams_of(folder: pathlib.Path) -> AsyncIterator[Bus]:
    """A connection to the NATS of the run in `folder`; one is started, and the run kept for it, where none is running.

    Raises RunRefused if the run is under way and says not where; BusTimeout, BusRefused.
    """
    login = login_of(folder)
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except RunRefused:
            told = folder / ADDRESSES
            url = json.loads(told.read_text()).get(NATS) if told.is_file() else None
            if url is None:
                raise
        else:
            (folder / ADDRESSES).unlink(missing_ok=True)  # of an earlier life: nobody of it is there
            server = run_server(folder, "nats-read.log")
            url = (await stack.enter_async_context(server)).url
        yield await stack.enter_async_context(connect(url, name="penstock", login=login))


def run_server(folder: pathlib.Path, log: str) -> EmbeddedServer:
    """A server on the streams of the run in `folder`, to be used by `login_of` it. Raises OSError."""
    return EmbeddedServer(
        folder / "nats",
        folder / "logs" / log,
        users={OPERATOR: User(login_of(folder), EVERYTHING)},
        tls=nats_files_of(folder),
        client_tls=login_of(folder).tls,
    )
