"""Who may not read a run's model bundle is told so in a sentence, and who may gets it; on a real server with users."""

import pathlib
from contextlib import AbstractAsyncContextManager

import pytest

from penstock.access import Login, subjects_of
from penstock.bus import Bus, EmbeddedServer, RunNames, User, connect, ensure_run, store_payload
from penstock.cli.joining import _bundle
from penstock.recipes import RecipeError
from penstock.testing.nats.fixtures import SMALL

NAMES = RunNames("r1")
TABLE = subjects_of(NAMES)
USERS: dict[str, User] = {kind: User(Login(kind, f"secret of {kind}"), TABLE[kind]) for kind in TABLE}


async def test_an_engine_without_a_model_is_told_what_to_do_where_nats_gives_it_no_bundle(
    tmp_path: pathlib.Path,
) -> None:
    bundle, there = bytes(range(256)) * 8, pathlib.Path("/nowhere/model")
    async with EmbeddedServer(tmp_path / "store", tmp_path / "log", users=USERS) as server:

        def opened(kind: str) -> AbstractAsyncContextManager[Bus]:
            return connect(
                server.url, name=kind, login=USERS[kind].login, monitor_url=server.monitor_url, attempt_seconds=0.5
            )

        async with opened("operator") as operator, opened("generation") as engine, opened("rollout") as rollout:
            await ensure_run(operator, NAMES, SMALL)
            held = await store_payload(operator, NAMES, bundle, limit=500)
            assert await _bundle(rollout, NAMES, held, there) == bundle
            with pytest.raises(
                RecipeError, match="no directory '/nowhere/model' here, and NATS lets rollout and learner"
            ):
                await _bundle(engine, NAMES, held, there)
