"""Joining a run that another host has started, and keeping as many processes of it here as are wanted.

What a host needs is the address of NATS, the run's name and its credentials: the recipe is in the run's bucket.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
import pathlib
import platform
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from penstock.access import Login
from penstock.bus import Bucket, Bus, BusError, BusTimeout, RunNames, connect, is_payload_of, load_payload, until_run
from penstock.bus.embedded import free_ports
from penstock.cli.bundling import NoBundle, differing, packed, unpack
from penstock.names import ENDS
from penstock.recipes import Recipe, RecipeError, load, recorded
from penstock.rpc import Certificates, is_local
from penstock.supervisor import Joins, Scaling, Service, Supervisor, counts_of, plan
from penstock.supervisor.devices import Devices, visible
from penstock.supervisor.plan import SHOWS, nats_of
from penstock.supervisor.scaling import LEARNER, moves
from penstock.telemetry.waits import waiting
from penstock.tensors import has_weights

logger = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
MAY_READ = ("rollout", "learner")
"""The kinds whose NATS users may read the run's model bundle."""
READ_MODEL = frozenset({"coordinator", "gateway", "generation", "learner", "rollout"})
"""Kinds that read the model's directory at all."""
FIRST = "first"
"""The place that started the run, for `penstock scale`."""


def this_host() -> str:
    """This host's name, as it may stand in the names of instances and of keys."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", platform.node()).strip("-_")[:32] or "host"


@dataclasses.dataclass(frozen=True)
class Joining:
    """A run to join. folder: where this host keeps what its processes write. secrets: as of `Joins`. place: stands in
    the names of instances here, so that no other host has them."""

    nats: str
    run: str
    folder: pathlib.Path
    secrets: pathlib.Path | None = None
    flags: tuple[str, ...] = ()
    place: str = dataclasses.field(default_factory=this_host)

    def login(self, kind: str) -> Login:
        """How a kind shows itself to NATS. Raises OSError."""
        held = self._certificates
        context = held.context() if held is not None else None
        text = "" if self.secrets is None else (self.secrets / nats_of(SHOWS.get(kind, kind))).read_text()
        return Login.parsed(text, context)

    @property
    def _certificates(self) -> Certificates | None:
        """Those that the flags of its services name."""
        parser = argparse.ArgumentParser(add_help=False)
        for flag in ("--tls-ca", "--tls-certificate", "--tls-key"):
            parser.add_argument(flag, type=pathlib.Path)
        found, _ = parser.parse_known_args(list(self.flags))
        if found.tls_ca is None:
            return None
        return Certificates.of_files(authority=found.tls_ca, certificate=found.tls_certificate, key=found.tls_key)

    @property
    def host(self) -> str:
        """Where processes listen: on this host alone, where NATS is here too."""
        return "127.0.0.1" if is_local(urlsplit(self.nats.split(",")[0]).netloc.rpartition("@")[2]) else "0.0.0.0"  # noqa: S104

    def service(self, recipe: Recipe, name: str, variables: Mapping[str, str] | None = None) -> Service:
        """One process, with variables beside those of here."""
        address = f"{self.host}:{free_ports(1)[0]}" if self.host == "127.0.0.1" else f"{self.host}:0"
        joins = Joins(self.secrets, ("--ends-with-run", *self.flags))
        (service,) = plan(recipe, self.folder, self.nats, {name: address}, joins, lambda _: variables or {})
        return service


async def recipe_of(bus: Bus, names: RunNames, folder: pathlib.Path, kinds: Collection[str]) -> Recipe:
    """Waits, listed and without a deadline, until the run has its recipe; keeps it in `folder` too, with the model's
    tokenizer where this host has no directory of the model.

    kinds: of what is started here. Raises RecipeError where this host cannot run it.
    """
    await until_run(bus, names)
    with waiting(f"the recipe of run {names.run}", on="whoever makes the run", deadline=None):
        while (held := await Bucket(bus, names).get(names.recipe_key)) is None:
            await asyncio.sleep(LOOK_SECONDS)  # it is written at once after the streams
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    if not set(kinds) & READ_MODEL:
        path.write_bytes(held.value)
        return recorded(path)
    raw: dict[str, Any] = yaml.safe_load(held.value)
    there = pathlib.Path(raw["model"]["path"])
    if (bundle := await Bucket(bus, names).get(names.model_key)) is not None:
        try:
            if not there.is_dir():
                unpack(await _bundle(bus, names, bundle.value, there), folder / "model")
                raw["model"]["path"] = str((folder / "model").absolute())
            elif not is_payload_of(bundle.value, await asyncio.to_thread(packed, there)):
                await _check_is_same(bus, names, bundle.value, there)
        except NoBundle as none:
            raise RecipeError(names.run, [str(none)]) from none
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # nodes of a learner share the folder
    beside.write_text(yaml.safe_dump(raw, sort_keys=False))
    os.replace(beside, path)
    recipe = load(path, rows=False)
    needing = sorted((kind, why) for kind in kinds if (why := _needs_weights(recipe, kind)))
    if needing and not has_weights(recipe.model.path):
        kind, why = needing[0]
        raise RecipeError(
            names.run, [f"model.path: no directory {str(there)!r} here, and {kind} needs its weights: {why}"]
        )
    return recipe


async def _bundle(bus: Bus, names: RunNames, held: bytes, there: pathlib.Path) -> bytes:
    """Raises BusError; RecipeError where NATS lets this user read none."""
    try:
        return await load_payload(bus, names, held)
    except BusTimeout as error:
        if "permissions violation" not in str(error).lower():
            raise
        why = (
            f"model.path: no directory {str(there)!r} here, and NATS lets {' and '.join(MAY_READ)} alone read the run's"
        )
        raise RecipeError(names.run, [f"{why} bundle: put the model there, or keep one of these here too"]) from error


async def _check_is_same(bus: Bus, names: RunNames, bundle: bytes, there: pathlib.Path) -> None:
    """Raises NoBundle where a file of the run's model has another content in the directory here; what it has more or
    less is no matter. Raises BusError."""
    if others := differing(await load_payload(bus, names, bundle), there):
        raise NoBundle(
            f"model.path: {str(there)!r} here is another model than the run's ({', '.join(others)} differ); put the "
            "run's there, or nothing: what needs no weights takes its tokenizer from the run"
        )


def _needs_weights(recipe: Recipe, kind: str) -> str:
    """Why a kind cannot do without the model's weights; empty where it can: engines get the policy's from the run."""
    lora, speculative = recipe.learner.lora, recipe.generation.speculative
    if kind == "learner":
        return "training begins from them"
    if kind != "generation":
        return ""
    if recipe.mode != "train":
        return f"nobody publishes them where mode is {recipe.mode!r}"
    if lora is not None and lora.publish == "adapters":
        return "learner.lora.publish=adapters publishes changes of them alone"
    if speculative is not None and speculative.config.get("method") == "mtp":
        return "generation.speculative drafts with a part of them that is not trained"
    return ""


async def follow_wanted(bus: Bus, names: RunNames, where: str, scaling: Scaling) -> None:
    """Reaches what `penstock scale` wants of a place, whenever it says so; for ever."""
    bucket, key = Bucket(bus, names), names.wanted_key(where or FIRST)
    revision: int | None = None
    while True:
        try:
            held = await bucket.get(key)
            if revision is None:  # what was wanted of an earlier life is none of this one's
                revision = held.revision if held is not None else 0
            elif held is not None and held.revision > revision:
                revision = held.revision
                await scaling.reach(counts_of(held.value.decode(errors="replace").split()))
        except (BusError, ValueError) as error:
            logger.warning("cannot scale %s: %s", where or FIRST, error)
        await asyncio.sleep(LOOK_SECONDS)  # who keeps processes may be no user who hears this key


def names_here(recipe: Recipe, wanted: Mapping[str, int], place: str) -> list[str]:
    """Of the processes that a place keeps; each keeps its name over its restarts. Raises RecipeError."""
    if LEARNER in wanted and recipe.mode == "evaluate":
        raise RecipeError(recipe.run, ["learner=1: the run trains nothing, its mode is 'evaluate'"])
    learner = {LEARNER: [LEARNER if recipe.learner.nodes == 1 else f"{LEARNER}-{place}"]}
    return [name for kind, count in wanted.items() for name in learner.get(kind) or moves([], kind, count, place)[0]]


async def until_over(bus: Bus, names: RunNames) -> str:
    """Waits until the run is over; how it ended."""
    with waiting(f"the end of run {names.run}", on="the run", deadline=None):
        while True:
            try:
                held = await Bucket(bus, names).get(names.over_key)
                if held is not None and (said := held.value.decode(errors="replace")) in ENDS:
                    return said
            except BusError as error:
                logger.info("asking NATS again: %s", error)
            await asyncio.sleep(LOOK_SECONDS)  # as in `follow_wanted`


async def join(joining: Joining, wanted: Mapping[str, int], on_restart: Callable[[str, str], None]) -> str:
    """Keeps as many processes as are wanted, until they end with the run; how it ended, where it has said so by then.
    Cancelling drains and ends them.

    Raises RecipeError, LoginRefused, OSError, and an ExceptionGroup of ServiceFailed.
    """
    names, where = RunNames(joining.run), joining.place
    async with connect(
        joining.nats,
        name="penstock",
        login=joining.login(next((kind for kind in MAY_READ if kind in wanted), min(wanted))),
        within=None,
    ) as bus:
        recipe = await recipe_of(bus, names, joining.folder, wanted)
        supervisor = Supervisor(joining.folder / "logs", on_restart)
        started = names_here(recipe, wanted, where)
        devices = Devices(visible())

        def made(name: str) -> Service:
            return joining.service(recipe, name, devices.variables(recipe, name, scaling.names))

        scaling = Scaling(supervisor, made, started, where)

        async def over() -> str:
            how = await until_over(bus, names)
            supervisor.let_end()  # what ends now is not started again, whatever its code is
            return how

        scaled, ending = asyncio.create_task(follow_wanted(bus, names, where, scaling)), asyncio.create_task(over())
        try:
            await supervisor.keep([made(name) for name in started])
            if not ending.done():  # a process may hear of the end first
                held = await Bucket(bus, names).get(names.over_key)
                said = "" if held is None else held.value.decode(errors="replace")
                return said if said in ENDS else ""
            return ending.result()
        finally:
            for each in (scaled, ending):
                each.cancel()
            await asyncio.gather(scaled, ending, return_exceptions=True)
            await supervisor.stop()
