"""A run whose directory is on a full disk: it goes on, says why its files stand still, and writes all of it later."""

import json
import pathlib

import pytest

from penstock.bus import EmbeddedServer, RunNames, connect, ensure_run
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.system.disk import DiskFull
from penstock.testing.nats.fixtures import SMALL
from penstock.testing.small_disk import fill, run_on_small_disk
from services.coordinator.reporting.sinks import Tracked, close, sinks, write_summary
from services.coordinator.testing.run import (
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    running,
    until,
)

DISK = 1 << 20
STEPS = 3


def files_of_a_full_disk(folder: pathlib.Path) -> None:
    beside = folder.parent / "models"
    beside.mkdir()
    made = sinks(folder, make_recipe(beside, telemetry__tensorboard=True))
    path, summary = folder / "metrics.jsonl", folder / "summary.json"
    for sink in made:
        sink.step(1, {"a": 1.0})
    write_summary(summary, {"steps": 1})
    before, ballast = path.read_bytes(), fill(folder, leave=100)
    many = 500 if ballast.stat().st_size > DISK // 2 else 20_000  # where files are limited instead
    wide = {f"rl.a.name.that.takes.room.{n}": 1.0 for n in range(many)}
    for _ in range(3):  # a retry of a torn line must not tear it further
        with pytest.raises(DiskFull, match=r"disk full: .*metrics\.jsonl cannot be written"):
            made[0].step(2, wide)
        assert path.read_bytes() == before
    with pytest.raises(DiskFull, match=r"disk full: .*summary\.json cannot be written"):
        write_summary(summary, wide)
    assert json.loads(summary.read_text()) == {"steps": 1}
    assert not list(folder.glob("*.tmp"))
    assert isinstance(made[1], Tracked)
    for step in range(2, 12):
        made[1].step(step, wide)  # TensorBoard's thread dies of it; nobody waits for it
    ballast.unlink()
    made[0].step(2, {"a": 2.0})
    made[1].step(30, {"a": 3.0})
    write_summary(summary, {"steps": 2})
    close(made)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


async def a_run_on_a_full_disk(folder: pathlib.Path) -> None:
    beside = folder.parent / "beside"
    beside.mkdir()
    recipe, names = make_recipe(beside, algorithm__steps=STEPS), RunNames("r1")
    chat = ChatTokenizer(beside / "model")
    ballast = fill(folder)
    if ballast.stat().st_size < DISK * 3 // 4:
        return  # files are limited instead: those of a small run never grow beyond that
    async with EmbeddedServer(beside / "nats", beside / "nats.log") as nats:
        async with connect(nats.url, name="test", monitor_url=nats.monitor_url) as bus:
            await ensure_run(bus, names, SMALL)
            coordinator = make_coordinator(bus, names, recipe, folder, chat)
            async with running(coordinator.run(), play_worker(bus, names, "train"), within=60):
                await play_learner(bus, names, STEPS)
                await until(bus, names, lambda ledger: len(ledger.reports) == STEPS)
                seen = -1
                while not coordinator.recorder.problem:
                    seen = await coordinator.following.changed(seen, 0.5)
                assert "disk full" in coordinator.recorder.problem and str(folder) in coordinator.recorder.problem
                assert coordinator.state.value == pb.RUN_STATE_RUNNING
                ballast.unlink()
                while not coordinator.state.over:
                    seen = await coordinator.following.changed(seen, 0.5)
            assert coordinator.state.value == pb.RUN_STATE_DONE and coordinator.recorder.problem == ""
    written = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert written == [1, 2, 3]
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize("scenario", ["files_of_a_full_disk", "a_run_on_a_full_disk"])
def test_a_full_disk_delays_files_and_loses_nothing(scenario: str, tmp_path: pathlib.Path) -> None:
    run_on_small_disk(f"services.coordinator.full_disk_test:{scenario}", tmp_path / "disk", DISK)
