"""`penstock fork`: a new run that begins where another one was at a checkpoint.

    source: checkpoint of step K, ledger up to batch K, samples of those batches  --copy-->  new run, to be trained on

The new run is an ordinary one that was stopped after step K: weights, optimizer, random state and data position are
the checkpoint's, and groups that were in flight are drawn anew. The source is only read, and may be under way.

Invariants (test names): a fork has nothing of what came after its step; it appears whole or not at all.
"""

import asyncio
import json
import pathlib
import shutil
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import typer
import yaml

from penstock.bus import Bucket, Bus, BusError, Entry, RunLimits, RunNames, append, connect, ensure_run, read
from penstock.cli.commands.export import checkpoint_of
from penstock.cli.commands.replay import copy_log
from penstock.cli.credentials import OPERATOR, login_of, make_secrets
from penstock.cli.run_directory import RunRefused
from penstock.cli.streams import run_server, streams_of
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs, unknown_run
from penstock.ledger import Ledger
from penstock.names import ledger_key
from penstock.recipes import RecipeError, as_said, dump, load, resolve
from penstock.system import exits
from penstock.terminal import console, failed, plain
from penstock.trajectory.v1.trajectory_pb2 import BatchRecord

MARK = "fork.json"
EPOCH = "learner_epoch"
POSITION = ("log_cursor", "ledger_sequence")
"""What a checkpoint says of the source's streams; in the fork's the learner looks from the start."""


def fork(
    run: RunName,
    step: Annotated[int, typer.Option(min=1, help="the checkpoint's")],
    name: Annotated[str, typer.Option("--as", help="name of the new run")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value: what is different in it")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Begin a new run from a checkpoint of another: weights, optimizer, random state, data position.

    `penstock train runs/NAME/recipe.yaml` goes on with it.
    """
    try:
        folder = fork_run(runs / run, step, runs / name, overrides or [])
    except (RecipeError, RunRefused, ValueError) as error:
        raise failed(str(error)) from error
    except (BusError, OSError) as error:
        raise failed(f"run {run!r} cannot be copied: {error}", exits.FAILED) from error
    console.print(plain(f"{name} stands at step {step}; penstock train {folder / 'recipe.yaml'}"))


def fork_run(source: pathlib.Path, step: int, target: pathlib.Path, overrides: list[str]) -> pathlib.Path:
    """Makes the run in `target`; gives it. Raises RunRefused, RecipeError, BusError, OSError."""
    if not (source / "recipe.yaml").is_file():
        raise RunRefused(unknown_run(source.name, source.parent))
    if target.exists():
        raise RunRefused(f"{target} exists; choose another name")
    checkpoint = checkpoint_of(source, step)
    raw = as_said(load(source / "recipe.yaml"))
    recipe = resolve(raw, [*overrides, f"run={target.name}"], source=f"fork of {source}")
    if recipe.steps <= step:
        raise RunRefused(f"algorithm.steps is {recipe.steps}, and the fork begins at step {step}; give a larger one")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "nats").mkdir(mode=0o700, parents=True)
        (partial / "logs").mkdir()
        make_secrets(partial, target.name)
        copied = partial / "checkpoints" / checkpoint.name
        shutil.copytree(checkpoint, copied)
        _look_from_the_start(copied / "manifest.json")
        (partial / "recipe.yaml").write_text(dump(recipe))
        asyncio.run(_copy_streams(source, step, partial, target.name))
        (partial / MARK).write_text(json.dumps({"source": str(source), "step": step}) + "\n")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _look_from_the_start(path: pathlib.Path) -> None:
    """Makes a checkpoint one of other streams. Raises RunRefused for what is no checkpoint's manifest."""
    try:
        said: dict[str, Any] = json.loads(path.read_text())
        said["extra"] |= dict.fromkeys(POSITION, 0)
    except (ValueError, KeyError, TypeError) as error:
        raise RunRefused(f"{path} is damaged: {error!r}") from error
    path.write_text(json.dumps(said, indent=1, sort_keys=True))


async def _copy_streams(source: pathlib.Path, step: int, folder: pathlib.Path, name: str) -> None:
    before = yaml.safe_load((source / "recipe.yaml").read_text())
    old, new = RunNames(str(before["run"])), RunNames(name)
    async with (
        streams_of(source) as from_bus,
        run_server(folder, "nats-fork.log") as here,
        connect(here.url, name=OPERATOR, login=login_of(folder), monitor_url=here.monitor_url) as to_bus,
    ):
        await ensure_run(to_bus, new, RunLimits(log_bytes=int(before["limits"]["log_bytes"])))
        ledger, entries = Ledger(), [entry async for entry in _until(from_bus, old, step)]
        for entry in entries:
            ledger.apply(entry.subject, entry.payload, entry.sequence)
        if ledger.step != step:
            raise RunRefused(f"the ledger of {old.run!r} has no batch of step {step}")
        samples = await copy_log(from_bus, old, to_bus, new, ledger, trimmed=True)
        for entry in entries:
            kind, key = ledger_key(entry.subject)
            subject = new.ledger_group_subject(key) if kind == "group" else _of_step(new, kind, int(key))
            payload = _where(entry.payload, samples) if kind == "batch" else entry.payload
            await append(to_bus, subject, payload, expected_last_sequence=None)
        epoch = max(record.writer_epoch for record in ledger.batches.values())
        await Bucket(to_bus, new).put(EPOCH, str(epoch).encode())


def _where(payload: bytes, samples: Mapping[tuple[str, int], int]) -> bytes:
    """A batch record that says where its samples are in the new log; 0, which is nowhere, for those that are not."""
    record = BatchRecord.FromString(payload)
    for part in record.groups:
        part.log_sequences[:] = [samples.get((part.group, index), 0) for index in part.indices]
    return record.SerializeToString()


async def _until(bus: Bus, names: RunNames, step: int) -> AsyncIterator[Entry]:
    """What was decided before the batch of the step after `step`, and what was reported of steps up to it since."""
    ledger = Ledger()
    async for entry in read(bus, names.ledger, live=False):
        set_aside = ledger.quarantine.counts.total()
        ledger.apply(entry.subject, entry.payload, entry.sequence)
        if ledger.quarantine.counts.total() > set_aside:
            continue
        kind, key = ledger_key(entry.subject)
        if kind in ("version", "recipe"):
            continue  # of a version store, and of recipes, that the new run does not have
        if ledger.step <= step if kind in ("group", "batch") else int(key) <= step:
            yield entry


def _of_step(names: RunNames, kind: str, step: int) -> str:
    subjects = {
        "batch": names.ledger_batch_subject,
        "step": names.ledger_step_subject,
        "eval": names.ledger_eval_subject,
    }
    return subjects[kind](step)
