"""A run's streams for commands that only read: those of a run under way, or the files of one that is not."""

import json
import pathlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from penstock.bus import Bus, EmbeddedServer, connect
from penstock.cli.credentials import nats_token_of
from penstock.cli.run_directory import RunRefused, locked

NATS = "nats"  # in addresses.json


@asynccontextmanager
async def streams_of(folder: pathlib.Path) -> AsyncIterator[Bus]:
    """A connection to the NATS of the run in `folder`; one is started, and the run kept for it, where none is running.

    Raises RunRefused if the run is under way and says not where; BusTimeout, BusRefused.
    """
    token = nats_token_of(folder)
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except RunRefused:
            told = folder / "addresses.json"
            url = json.loads(told.read_text()).get(NATS) if told.is_file() else None
            if url is None:
                raise
        else:
            server = EmbeddedServer(folder / "nats", folder / "logs" / "nats-read.log", token=token)
            url = (await stack.enter_async_context(server)).url
        yield await stack.enter_async_context(connect(url, name="penstock", token=token))
