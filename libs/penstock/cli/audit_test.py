"""A run is verified from its files alone, and what was set aside of its streams is listed."""

import asyncio
import pathlib
import re
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from penstock.bus import (
    Bus,
    EmbeddedServer,
    RunNames,
    append,
    connect,
    ensure_run,
    publish_once,
    store_payload,
)
from penstock.cli.main import app
from penstock.cli.run_directory import locked
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.testing.nats.fixtures import SMALL
from penstock.trajectories import TrajectoryBuilder, encode
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb

NAMES, SIZE, GROUPS = RunNames("r1"), 2, 3


def sample(number: int, index: int) -> pb.Trajectory:
    b = TrajectoryBuilder()
    b.context("user", [3])
    b.begin_completion()
    b.drawn([5], [-0.5], [pb.VersionSegment(version=PolicyVersion(epoch=1, step=0))])
    task = pb.GroupTask(run="r1", group=f"g{number:08d}", kind=pb.TASK_KIND_TRAIN, group_size=SIZE)
    t = b.fill(header(task, index, "m"))
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, float(index)
    return t


async def put(bus: Bus, subject: str, payload: bytes) -> None:
    await publish_once(bus, subject, await store_payload(bus, NAMES, payload))


async def fill(bus: Bus) -> None:
    """Three groups: two are a batch, the third failed for an entry that is garbage."""
    await ensure_run(bus, NAMES, SMALL)
    record = pb.BatchRecord(step=1, writer_epoch=1)
    for number in range(GROUPS):
        event = pb.LedgerEvent(group=f"g{number:08d}", admitted=pb.Admitted(group_size=SIZE))
        subject = NAMES.ledger_group_subject(event.group)
        await append(bus, subject, event.SerializeToString(), expected_last_sequence=0)
        for index in range(SIZE):
            good = number < 2 or index == 0
            await put(bus, NAMES.log_subject(event.group, index), encode(sample(number, index)) if good else b"[bold]")
        if number < 2:
            sequences = (2 * number + 1, 2 * number + 2)
            record.groups.add(group=event.group, indices=(0, 1), log_sequences=sequences, reward=0.5)
    end = pb.LedgerEvent(group="g00000002", failed=pb.Failed(failures={"FAILURE_INVALID": 1}, detail="no trajectory"))
    await append(bus, NAMES.ledger_group_subject(end.group), end.SerializeToString(), expected_last_sequence=None)
    await append(bus, NAMES.ledger_batch_subject(1), record.SerializeToString(), expected_last_sequence=0)
    await append(bus, "penstock.r1.ledger.odd", b"garbage", expected_last_sequence=None)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    folder = tmp_path / "runs" / "r1"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("{run: r1, mode: train, staleness: {max_versions: 1}}")

    async def made() -> None:
        async with EmbeddedServer(folder / "nats", tmp_path / "nats.log") as server:
            async with connect(server.url, name="test", monitor_url=server.monitor_url) as bus:
                await fill(bus)

    asyncio.run(made())
    yield folder


def penstock(*arguments: str, folder: pathlib.Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments, "--runs", str(folder.parent)], env={"COLUMNS": "200"})
    return done.exit_code, " ".join(done.output.split())


def test_a_run_that_is_over_is_verified_from_its_files(run: pathlib.Path) -> None:
    code, said = penstock("verify", "r1", folder=run)
    assert code == 0, said
    assert "6 samples admitted = 4 trained + 0 filtered + 0 expired + 2 failed + 0 in flight; 1 batches" in said
    assert "2 entries are quarantined" in said and "every promise is kept" in said


def test_what_was_set_aside_is_listed_with_the_end_of_its_group(run: pathlib.Path) -> None:
    code, said = penstock("quarantine", "r1", folder=run)
    assert code == 0 and "2 entries are quarantined" in said
    assert re.search(r"log . 6 . penstock.r1.log.g00000002.1 . FAILED . not a trajectory", said), said
    assert "penstock.r1.ledger.odd" in said


def test_a_broken_promise_is_said_and_is_an_exit_code(run: pathlib.Path) -> None:
    async def forge() -> None:
        async with EmbeddedServer(run / "nats", run / "nats.log") as server:
            async with connect(server.url, name="test") as bus:
                event = pb.LedgerEvent(group="g00000003", admitted=pb.Admitted(group_size=SIZE))
                subject = NAMES.ledger_group_subject(event.group)
                await append(bus, subject, event.SerializeToString(), expected_last_sequence=0)
                record = pb.BatchRecord(step=2, writer_epoch=1)
                record.groups.add(group=event.group, indices=[1], log_sequences=[99])
                await append(bus, NAMES.ledger_batch_subject(2), record.SerializeToString(), expected_last_sequence=0)

    asyncio.run(forge())
    code, said = penstock("verify", "r1", folder=run)
    assert code == 1 and "step 2: g00000003/1 was trained, but the log holds no such sample" in said


def test_a_run_under_way_is_read_where_it_says(run: pathlib.Path) -> None:
    with locked(run):
        code, said = penstock("verify", "r1", folder=run)
        assert code == 2 and "in use by another process" in said

    async def while_it_runs() -> tuple[int, str]:
        async with EmbeddedServer(run / "nats", run / "nats.log") as server:
            (run / "addresses.json").write_text(f'{{"nats": "{server.url}"}}')
            with locked(run):
                return await asyncio.to_thread(penstock, "verify", "r1", folder=run)

    assert asyncio.run(while_it_runs())[0] == 0


def test_an_unknown_run_is_named(run: pathlib.Path) -> None:
    code, said = penstock("quarantine", "r2", folder=run)
    assert code == 2 and "no run 'r2'" in said
