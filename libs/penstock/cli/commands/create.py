"""`penstock create`: a recipe's run on a NATS of yours, for services that are started one by one."""

import asyncio
import pathlib
from typing import Annotated

import typer

from penstock.access import Login
from penstock.bus import BusError, connect
from penstock.cli.making import make_run
from penstock.cli.words import Overrides
from penstock.recipes import Recipe, RecipeError, load
from penstock.rpc import Certificates
from penstock.terminal import console, failed


def create(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Overrides = None,
    nats: Annotated[str, typer.Option(help="nats://HOST:PORT; several separated by commas")] = "nats://127.0.0.1:4222",
    nats_token_file: Annotated[
        pathlib.Path | None, typer.Option(help="file with USER:PASSWORD or a token that may make streams")
    ] = None,
    tls_ca: Annotated[pathlib.Path | None, typer.Option(help="PEM of the authority of NATS' certificate")] = None,
    tls_certificate: Annotated[pathlib.Path | None, typer.Option(help="PEM certificate to show NATS")] = None,
    tls_key: Annotated[pathlib.Path | None, typer.Option(help="PEM key of that certificate")] = None,
    monitor: Annotated[str | None, typer.Option(help="http://HOST:8222 of NATS, to verify that it syncs")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="take it on trust that NATS syncs every write")] = False,
) -> None:
    """Make a run's streams on a NATS of yours, and leave its recipe there for services that join.

    Do it once, before `penstock serve` and `penstock join`; `penstock train` does it by itself. What is there goes on.
    """
    try:
        if tls_ca is None and (tls_certificate or tls_key):
            raise ValueError("--tls-certificate and --tls-key are for NATS with TLS: give its authority by --tls-ca")
        held = (
            Certificates.of_files(authority=tls_ca, certificate=tls_certificate, key=tls_key)
            if tls_ca is not None
            else None
        )
        text = nats_token_file.read_text() if nats_token_file is not None else ""
        login = Login.parsed(text, held.context() if held is not None else None)
        asyncio.run(_create(load(recipe, overrides or []), nats, login, monitor, trust))
    except (RecipeError, BusError, OSError, ValueError) as error:
        raise failed(str(error)) from error
    console.print("made; `penstock serve KIND --join NATS --run NAME` takes part in it", highlight=False, markup=False)


async def _create(recipe: Recipe, nats: str, login: Login, monitor: str | None, trust: bool) -> None:
    async with connect(nats, name="penstock", login=login, monitor_url=monitor) as bus:
        await make_run(bus, recipe, "trust" if trust else "verify")
