"""`penstock replay`: a run's recorded batches become the log of a new run, which a learner trains again.

    source: log + ledger  --copy what was released-->  new run: log + ledger  -->  weight_sync, learner, coordinator

The new run is an ordinary one that happens to have all its batches recorded already: its learner does what a restarted
learner does. Nothing is generated, and the source is only read.

Invariants (test names): the copy holds exactly the released groups, and their batches in order; a copy that was
interrupted is made again, never half used.
"""

import asyncio
import json
import pathlib
import shutil
from collections.abc import Iterable
from typing import Annotated

import typer
import yaml
from rich.console import Console

from penstock.bus import (
    Bus,
    BusError,
    Entry,
    RunLimits,
    RunNames,
    append,
    connect,
    ensure_run,
    load_payload,
    publish_once,
    read,
    store_payload,
)
from penstock.cli.credentials import login_of
from penstock.cli.run_directory import RATE, RunRefused, locked
from penstock.cli.screen import train
from penstock.cli.streams import run_server
from penstock.cli.words import DEFAULT_RUNS, Runs, unknown_run
from penstock.ledger import Fate, Ledger
from penstock.names import ledger_key
from penstock.recipes import Recipe, RecipeError, as_said, differing, dump, load, resolve
from penstock.rules.quarantine import BadEntry
from penstock.system import exits
from penstock.terminal import failed
from penstock.trajectories import encode, read_sample, sample_key
from penstock.trajectory.v1 import trajectory_pb2 as pb

MARK = "replay.json"
AT_ONCE = 64
# What a replay can change: how the recorded samples are trained on, not how they were made.
CHANGEABLE = (
    "algorithm.loss",
    "algorithm.advantage",
    "algorithm.critic",
    "algorithm.preference",
    "algorithm.reward_model",
    "algorithm.reward_scale",
    "teacher.divergence",
    "learner.",
)


def replay(
    run: Annotated[str, typer.Argument(help="the run whose recorded batches are trained again")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value: what to change")] = None,
    name: Annotated[str | None, typer.Option("--as", help="name of the new run; RUN-replay if absent")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Train again from a run's log, with no generation at all: the same batches in the same order.

    Without changes the weights become bit-identical to the run's; with algorithm.loss.clip_high=0.3, say, it is an
    ablation on the same data.
    """
    source, target = runs / run, name or f"{run}-replay"
    if not (source / "recipe.yaml").is_file():
        raise failed(unknown_run(run, runs))
    try:
        tried = replay_recipe(source, target, overrides or [], 1)  # bad input is refused before anything is copied
        steps = asyncio.run(copy_run(source, runs / target, target, _own_rate(source, tried)))
        recipe = replay_recipe(source, target, overrides or [], steps)
    except (RecipeError, RunRefused) as error:
        raise failed(str(error)) from error
    except (BusError, OSError) as error:
        raise failed(f"the log of {run!r} cannot be copied: {error}", exits.FAILED) from error
    raise typer.Exit(asyncio.run(train(recipe, runs, Console())))


def replay_recipe(source: pathlib.Path, name: str, overrides: Iterable[str], steps: int) -> Recipe:
    """The recipe of a replay of the run in `source`. Raises RecipeError; RunRefused for what a replay cannot change."""
    overrides = list(overrides)
    for override in overrides:
        if not override.startswith((*CHANGEABLE, "model.path", "telemetry.", "algorithm.overlong_buffer")):
            raise RunRefused(
                f"{override.partition('=')[0]}: a replay trains what was recorded; it can change "
                f"{', '.join(c.rstrip('.') for c in CHANGEABLE)}, algorithm.overlong_buffer, model.path and telemetry"
            )
    raw = as_said(load(source / "recipe.yaml"))
    fixed = [f"run={name}", "mode=replay", f"algorithm.steps={steps}"]
    return resolve(raw, [*overrides, *fixed], source=f"replay of {source}")


def _own_rate(source: pathlib.Path, recipe: Recipe) -> bool:
    """Whether a replay has another learning rate than the run in `source` had last."""
    before, after = yaml.safe_load((source / "recipe.yaml").read_text()), yaml.safe_load(dump(recipe))
    return any(key.startswith(RATE) for key, _, _ in differing(before, after))


async def copy_run(source: pathlib.Path, target: pathlib.Path, name: str, own_rate: bool = False) -> int:
    """Copies what the run in `source` released into the store of `target`; the number of recorded steps.

    own_rate: see `_copy_ledger`. Does nothing where an earlier call came to its end. Raises RunRefused if the source is
    in use, has no batch, or its log was trimmed.
    """
    mark = target / MARK
    if mark.is_file():
        made = json.loads(mark.read_text())
        if bool(made.get("own_rate", False)) != own_rate:
            raise RunRefused(f"{target} was copied for another learning rate; choose another name by --as")
        return int(made["steps"])
    shutil.rmtree(target / "nats", ignore_errors=True)
    (target / "nats").mkdir(parents=True)
    before = yaml.safe_load((source / "recipe.yaml").read_text())
    old, limits = RunNames(str(before["run"])), RunLimits(log_bytes=int(before["limits"]["log_bytes"]))
    theirs, ours = login_of(source), login_of(target)
    with locked(source):
        async with (
            run_server(source, "nats-replay.log") as there,
            run_server(target, "nats-copy.log") as here,
            connect(there.url, name="replay", login=theirs, monitor_url=there.monitor_url) as from_bus,
            connect(here.url, name="replay", login=ours, monitor_url=here.monitor_url) as to_bus,
        ):
            new = RunNames(name)
            await ensure_run(to_bus, new, limits)
            ledger = await _copy_ledger(from_bus, old, to_bus, new, own_rate)
            samples = len(await copy_log(from_bus, old, to_bus, new, ledger))
    mark.write_text(
        json.dumps({"source": str(source), "steps": ledger.step, "samples": samples, "own_rate": own_rate}) + "\n"
    )
    return ledger.step


async def _copy_ledger(from_bus: Bus, old: RunNames, to_bus: Bus, new: RunNames, own_rate: bool) -> Ledger:
    """Admissions and ends of the groups that were released, and all batches; no report, no evaluation, no recipe.
    own_rate: the batches leave their learning rate to the new run's recipe."""
    ledger, entries = Ledger(), list[Entry]()
    async for entry in read(from_bus, old.ledger, live=False):
        set_aside = ledger.quarantine.counts.total()
        ledger.apply(entry.subject, entry.payload, entry.sequence)
        if ledger.quarantine.counts.total() == set_aside:
            entries.append(entry)
    if not ledger.step:
        raise RunRefused(f"run {old.run!r} has trained no batch; there is nothing to replay")
    released = {name for name, group in ledger.groups.items() if group.fate is not Fate.IN_FLIGHT}
    for entry in entries:
        kind, key = ledger_key(entry.subject)
        payload = entry.payload
        if kind == "batch":
            subject = new.ledger_batch_subject(int(key))
            record = pb.BatchRecord.FromString(payload)
            if own_rate:
                record.ClearField("schedule")
            payload = record.SerializeToString()
        elif kind == "group" and key in released:
            subject = new.ledger_group_subject(key)
        else:
            continue
        await append(to_bus, subject, payload, expected_last_sequence=None)
    return ledger


async def copy_log(
    from_bus: Bus, old: RunNames, to_bus: Bus, new: RunNames, ledger: Ledger, *, trimmed: bool = False
) -> dict[tuple[str, int], int]:
    """Every sample that a batch names, in the order of the log; gives where each is in the new one, by group and index.

    trimmed: whether samples that the log does not hold any more may be left out. Raises RunRefused.
    """
    wanted = {(g.group, i) for record in ledger.batches.values() for g in record.groups for i in g.indices}
    copied: dict[tuple[str, int], int] = {}
    refused: list[str] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def put(key: tuple[str, int], entry: Entry) -> None:
        try:
            t = read_sample(old, entry.subject, await load_payload(from_bus, old, entry.payload))
            t.run = new.run
            there = await publish_once(to_bus, new.log_subject(*key), await store_payload(to_bus, new, encode(t)))
            copied[key] = there.sequence or 0
        except BadEntry as bad:
            refused.append(str(bad))
        finally:
            room.release()

    async with asyncio.TaskGroup() as tasks:
        async for entry in read(from_bus, old.log, live=False):
            try:
                key = sample_key(old, entry.subject)
            except BadEntry:
                continue  # nobody trained what has no name
            if key in wanted:
                copied[key] = 0
                await room.acquire()
                tasks.create_task(put(key, entry))
    if refused:
        raise RunRefused(f"{len(refused)} trained samples of run {old.run!r} are no samples any more: {refused[0]}")
    missing = wanted - copied.keys()
    if missing and not trimmed:
        first = "/".join(map(str, min(missing)))
        raise RunRefused(
            f"the log of run {old.run!r} no longer holds {len(missing)} of {len(wanted)} trained samples (first "
            f"{first}): it was trimmed; limits.keep_log=true keeps it"
        )
    return copied
