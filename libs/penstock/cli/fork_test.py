"""A fork of a run that a checkpoint and two batches are of, from its files alone."""

import asyncio
import json
import pathlib
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from penstock.bus import (
    Bucket,
    Bus,
    EmbeddedServer,
    RunNames,
    append,
    connect,
    ensure_run,
    publish_once,
    read,
    store_payload,
)
from penstock.cli.commands import fork as module
from penstock.cli.credentials import make_secrets
from penstock.cli.main import app
from penstock.cli.streams import streams_of
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.ledger import Ledger
from penstock.testing.nats.fixtures import SMALL
from penstock.tiny_model import make_model
from penstock.trajectories import TrajectoryBuilder, encode
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb

NAMES, SIZE = RunNames("r1"), 2


async def fill(bus: Bus) -> None:
    """Two batches of one group each; the third group was admitted before the second batch, the fourth after it.

    The log begins with the second group.
    """
    await ensure_run(bus, NAMES, SMALL)
    decided: list[tuple[str, Any]] = [(NAMES.ledger_recipe_subject(0), pb.RecipeRecord(recipe_json="{}"))]
    for number in range(4):
        name = f"g{number:08d}"
        if number in (1, 3):
            step = 1 if number == 1 else 2
            of = f"g{step - 1:08d}"
            record = pb.BatchRecord(step=step, writer_epoch=3)
            record.groups.add(group=of, indices=(0, 1), log_sequences=(5 - 2 * step, 6 - 2 * step), reward=0.5)
            report = pb.StepReport(step=step)
            report.version.step = step
            decided += [(NAMES.ledger_batch_subject(step), record), (NAMES.ledger_step_subject(step), report)]
        admitted = pb.LedgerEvent(group=name, admitted=pb.Admitted(group_size=SIZE, draw=number))
        decided.append((NAMES.ledger_group_subject(name), admitted))
    for step in (0, 1, 2):
        decided.append((NAMES.ledger_eval_subject(step), pb.EvaluationReport(step=step, samples=1)))
    for subject, message in decided:
        await append(bus, subject, message.SerializeToString(), expected_last_sequence=None)
    for number in (1, 0, 2):
        for index in range(SIZE):
            b = TrajectoryBuilder()
            b.context("user", [3])
            b.begin_completion()
            b.drawn([5], [-0.5], [pb.VersionSegment(version=PolicyVersion(epoch=1, step=0))])
            task = pb.GroupTask(run="r1", group=f"g{number:08d}", kind=pb.TASK_KIND_TRAIN, group_size=SIZE)
            t = b.fill(header(task, index, "m"))
            t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, float(index)
            payload = await store_payload(bus, NAMES, encode(t))
            await publish_once(bus, NAMES.log_subject(t.group, index), payload)


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    make_model(tmp_path / "model", hidden=32, layers=1, intermediate=64)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    folder = tmp_path / "runs" / "r1"
    (folder / "logs").mkdir(parents=True)
    raw = {
        "run": "r1",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 4},
        "limits": {"log_bytes": SMALL.log_bytes},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    for step in (1, 2):
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        extra = {"step": step, "epoch": 3, "log_cursor": 2, "ledger_sequence": 5}
        (checkpoint / "manifest.json").write_text(json.dumps({"format": 2, "extra": extra}))
        (checkpoint / "model.pt").write_bytes(b"weights")
    make_secrets(folder, "r1")

    async def made() -> None:
        async with EmbeddedServer(folder / "nats", tmp_path / "nats.log") as server:
            async with connect(server.url, name="test", monitor_url=server.monitor_url) as bus:
                await fill(bus)

    asyncio.run(made())
    return folder.parent


def penstock(*arguments: str, runs: pathlib.Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments, "--runs", str(runs)], env={"COLUMNS": "200"})
    return done.exit_code, " ".join(done.output.split())


async def streams(folder: pathlib.Path, run: str) -> tuple[Ledger, list[str], bytes]:
    names, ledger = RunNames(run), Ledger()
    async with streams_of(folder) as bus:
        async for entry in read(bus, names.ledger, live=False):
            ledger.apply(entry.subject, entry.payload, entry.sequence)
        log = [entry.subject async for entry in read(bus, names.log, live=False)]
        epoch = await Bucket(bus, names).get(module.EPOCH)
        return ledger, log, epoch.value if epoch is not None else b""


def test_a_fork_has_nothing_of_what_came_after_its_step(runs: pathlib.Path) -> None:
    code, said = penstock("fork", "r1", "--step", "1", "--as", "r2", "algorithm.steps=9", runs=runs)
    assert code == 0, said
    assert "r2 stands at step 1" in said
    ledger, log, epoch = asyncio.run(streams(runs / "r2", "r2"))
    assert (ledger.step, ledger.next_number, ledger.draws) == (1, 3, {"": 3}) and not ledger.quarantine.counts
    assert sorted(ledger.in_flight) == ["g00000001", "g00000002"]
    assert sorted(ledger.reports) == [1] and sorted(ledger.evaluations) == [0, 1]
    assert log == ["penstock.r2.log.g00000000.0", "penstock.r2.log.g00000000.1"]
    assert epoch == b"3", "its learners count on from there"
    extra = json.loads((runs / "r2/checkpoints/step-000001/manifest.json").read_text())["extra"]
    assert extra == {"step": 1, "epoch": 3, "log_cursor": 0, "ledger_sequence": 0}
    assert [p.name for p in (runs / "r2/checkpoints").iterdir()] == ["step-000001"]
    recipe = yaml.safe_load((runs / "r2/recipe.yaml").read_text())
    assert (recipe["run"], recipe["algorithm"]["steps"]) == ("r2", 9)
    code, said = penstock("verify", "r2", runs=runs)
    assert code == 0, said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--step", "1", "--as", "r2"), "no run 'nobody'"),
        (("r1", "--step", "7", "--as", "r2"), "no checkpoint of step 7 (steps: 1, 2)"),
        (("r1", "--step", "1", "--as", "r1"), "exists; choose another name"),
        (("r1", "--step", "1", "--as", "no.name"), "run"),
        (
            ("r1", "--step", "2", "--as", "r2", "algorithm.steps=2"),
            "algorithm.steps is 2, and the fork begins",
        ),
    ],
)
def test_what_cannot_be_forked_is_refused_and_leaves_nothing(
    runs: pathlib.Path, arguments: tuple[str, ...], said: str
) -> None:
    code, output = penstock("fork", *arguments, runs=runs)
    assert code == 2 and said in output
    assert [p.name for p in runs.iterdir()] == ["r1"]


def test_it_appears_whole_or_not_at_all(runs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "copy_log", broken)
        code, said = penstock("fork", "r1", "--step", "2", "--as", "r2", runs=runs)
    assert code == 1 and "cannot be copied: No space left" in said
    assert [p.name for p in runs.iterdir()] == ["r1"]
