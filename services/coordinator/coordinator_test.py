"""The coordinator on a real NATS: killed, doubled, paused, overdue. A script plays workers and learner."""

import asyncio
import contextlib
import json
import pathlib
import random
import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest

from penstock.bus import (
    Bus,
    EmbeddedServer,
    RunNames,
    append,
    read,
    stream_state,
)
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.ledger import Fate, Ledger
from penstock.names import group_number
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.admission import deadlines
from services.coordinator.admission.draws import Draw
from services.coordinator.coordinator import Coordinator
from services.coordinator.testing.run import (
    SIZE,
    STALENESS,
    N,
    fold,
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    release,
    running,
    settled,
    told_over,
    until,
)

STEPS = 5


def _has_moved(coordinator: Coordinator, sequence: int) -> bool:
    return coordinator.ledger.sequence >= sequence


async def tasks_of(bus: Bus, names: RunNames) -> list[str]:
    """Groups in the training part of the task stream, in its order."""
    subjects = [e.subject async for e in read(bus, names.tasks, live=False)]
    return [s.rpartition(".")[2] for s in subjects if ".train." in s]


def assert_whole(ledger: Ledger, steps: int) -> None:
    """Every admitted group was released exactly once (the fold itself refuses a second time), and none is missing."""
    assert ledger.step == steps
    assert list(ledger.groups) == [f"g{i:08d}" for i in range(len(ledger.groups))]
    assert ledger.samples.in_flight == SIZE * len(ledger.in_flight)


async def test_a_run_admits_evaluates_and_ends(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder, data__eval=str(folder / "eval.jsonl"), evaluation__every=2)
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    fate = {1: "filtered", 4: "failed"}
    async with running(coordinator.run(), play_worker(bus, names, "train"), play_worker(bus, names, "eval")):
        await play_learner(bus, names, STEPS, fate=lambda n: fate.get(n, "trained"))
        await settled(coordinator, lambda: coordinator.state.over)
        await told_over(bus, names, "done")
    assert coordinator.state.value == pb.RUN_STATE_DONE
    ledger = await fold(bus, names)
    assert_whole(ledger, STEPS)
    assert ledger.groups["g00000001"].fate is Fate.FILTERED and ledger.groups["g00000004"].fate is Fate.FAILED
    assert sorted(ledger.evaluations) == [0, 2, 4, 5]
    assert all(e.samples == 6 for e in ledger.evaluations.values())
    summary = json.loads((tmp_path / "summary.json").read_text())
    counts = summary["samples"]
    assert counts["admitted"] == sum(v for k, v in counts.items() if k != "admitted") == SIZE * len(ledger.groups)
    assert (counts["trained"], counts["filtered"], counts["failed"]) == (STEPS * N * SIZE, SIZE, SIZE)
    assert (summary["status"], summary["steps"], len(summary["eval"])) == ("done", STEPS, 4)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


async def test_kill_and_restart_at_any_moment_changes_nothing(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """The same groups, rows and seeds as an undisturbed run would have, no duplicate, none lost."""
    recipe = make_recipe(folder)
    seen: list[trajectory_pb2.GroupTask] = []

    async def many_lives() -> None:
        rng = random.Random(3)
        while True:
            life = make_coordinator(bus, names, recipe, tmp_path, chat)
            working = asyncio.create_task(life.run())
            await asyncio.wait({working}, timeout=rng.uniform(0.02, 0.1))  # killed early in its life, or
            moves = life.ledger.sequence + rng.randint(0, 8)
            with contextlib.suppress(TimeoutError):
                await settled(life, partial(_has_moved, life, moves), within=3)  # later
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async with running(many_lives(), play_worker(bus, names, "train", seen)):
        await play_learner(bus, names, STEPS, played=True)
    ledger = await fold(bus, names)
    assert_whole(ledger, STEPS)
    published = await tasks_of(bus, names)
    assert published == list(ledger.groups)[: len(published)] and len(published) >= STEPS * N
    undisturbed = make_coordinator(bus, names, recipe, tmp_path, chat)
    for work in seen:
        admitted = ledger.groups[work.group].admitted
        draw = Draw.recorded(admitted)
        expected = undisturbed.tasks.training(group_number(work.group), draw, admitted.min_step, admitted.deadline)
        assert work == expected


async def test_a_mixture_is_drawn_and_measured_by_source(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """Three groups of the second source to one of the first, each with its own size and length, killed on the way."""
    data = f"{{train: {folder}/eval.jsonl, eval: {folder}/eval.jsonl, curriculum: {{focus: 1.0}}}}"
    other = (
        f"{{name: other, weight: 3.0, data: {data}, environment: {{name: arithmetic}}, group_size: 2, max_tokens: 9}}"
    )
    recipe = make_recipe(folder, data__eval=str(folder / "eval.jsonl"), mixture=f"[{other}]")
    seen: list[trajectory_pb2.GroupTask] = []
    first = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(play_worker(bus, names, "train", seen), play_worker(bus, names, "eval", seen), within=60):
        async with running(first.run()):
            await play_learner(bus, names, 2)
        second = make_coordinator(bus, names, recipe, tmp_path, chat)
        async with running(second.run(), play_learner(bus, names, STEPS)):
            await settled(second, lambda: second.state.over)
    ledger = await fold(bus, names)
    sources = [group.admitted.source for group in ledger.groups.values()]
    assert sources[:8] == (["other", "sort_characters", "other", "other"] * 2)
    for work in seen:
        task = work.rollout.task
        own = (task.environment, work.group_size, work.rollout.sampling.max_tokens)
        if work.kind == trajectory_pb2.TASK_KIND_TRAIN:
            assert own == (("arithmetic", 2, 9) if task.source == "other" else ("sort_characters", SIZE, 256))
    assert {"reward", "reward.other", "reward.sort_characters"} <= set(ledger.evaluations[0].metrics)
    assert ledger.samples.admitted == sum(group.admitted.group_size for group in ledger.groups.values())


async def test_kill_9_of_the_process_changes_nothing(
    nats: EmbeddedServer, bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    make_recipe(folder)
    command = ["-m", "services.coordinator", "--recipe", str(folder / "recipe.yaml")]
    command += ["--run-directory", str(tmp_path), "--nats", nats.url]

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        try:
            yield
        finally:
            process.kill()
            await process.wait()

    async with running(play_worker(bus, names, "train"), play_learner(bus, names, STEPS), within=400):
        async with life():
            await until(bus, names, lambda ledger: ledger.step >= 2, within=180)
        async with life():
            ledger = await until(bus, names, lambda ledger: STEPS in ledger.reports, within=180)
    assert_whole(ledger, STEPS)
    assert len(ledger.groups) <= (STEPS + STALENESS + 1) * N


async def test_two_coordinators_at_once_are_harmless(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder, data__eval=str(folder / "eval.jsonl"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = make_coordinator(bus, names, recipe, tmp_path / "a", chat)
    two = make_coordinator(bus, names, recipe, tmp_path / "b", chat)
    workers = [play_worker(bus, names, kind) for kind in ("train", "eval")]
    async with running(one.run(), two.run(), *workers):
        await play_learner(bus, names, STEPS)
        await settled(one, lambda: one.state.over)
        await settled(two, lambda: two.state.over)
    ledger = await fold(bus, names)
    assert_whole(ledger, STEPS)
    assert sorted(await tasks_of(bus, names)) == list(ledger.groups)
    assert one.ledger.samples == two.ledger.samples and sorted(ledger.evaluations) == [0, STEPS]


async def test_a_fenced_append_is_taken_from_the_ledger(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """Another incarnation admits group 0 first: this one must accept that admission, not its own."""
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    await coordinator.restore()
    event = trajectory_pb2.LedgerEvent(group="g00000000", writer="twin")
    event.admitted.group_size = SIZE
    event.admitted.source = "sort_characters"
    event.admitted.deadline.GetCurrentTime()
    event.admitted.deadline.seconds += 600
    subject = names.ledger_group_subject("g00000000")
    await append(bus, subject, event.SerializeToString(), expected_last_sequence=0)
    slot, draw = coordinator.admission.admissible()[0]
    assert slot.number == 0 and not await coordinator.admission.admit(slot, draw)
    async with running(coordinator.run()):
        ledger = await until(bus, names, lambda ledger: len(ledger.groups) == (STALENESS + 1) * N)
    assert (await tasks_of(bus, names))[0] == "g00000000"
    assert_whole(ledger, 0)


async def test_the_budget_is_never_exceeded(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    most = 0

    async def watch() -> None:
        nonlocal most
        ledger = Ledger()
        async for entry in read(bus, names.ledger):
            ledger.apply(entry.subject, entry.payload, entry.sequence)
            most = max(most, len(ledger.in_flight))

    async with running(coordinator.run(), watch()):
        await until(bus, names, lambda ledger: len(ledger.groups) == (STALENESS + 1) * N)
        await play_learner(bus, names, STEPS, fate=lambda n: "filtered" if n % 3 == 1 else "trained")
        await settled(coordinator, lambda: coordinator.state.over)
    assert most == (STALENESS + 1) * N


async def test_a_pause_admits_nothing_and_survives_a_restart(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe, budget = make_recipe(folder), (STALENESS + 1) * N
    first = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(first.run()):
        await until(bus, names, lambda ledger: len(ledger.groups) == budget)
        await first.pause(True)
        await release(bus, names, "g00000000", "filtered")
        await settled(first, lambda: len(first.ledger.in_flight) == budget - 1)
        assert first.state.value == pb.RUN_STATE_PAUSED
    second = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(second.run()):
        await settled(second, lambda: second.state.value == pb.RUN_STATE_PAUSED)
        await release(bus, names, "g00000001", "filtered")
        await settled(second, lambda: len(second.ledger.in_flight) == budget - 2)
        assert len((await fold(bus, names)).groups) == budget
        await second.pause(False)
        await until(bus, names, lambda ledger: len(ledger.groups) == budget + 2)
        assert second.state.value == pb.RUN_STATE_RUNNING


async def test_groups_past_their_deadline_end_as_timed_out(
    bus: Bus,
    names: RunNames,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    chat: ChatTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deadlines, "GRACE_SECONDS", 0.25)
    recipe = make_recipe(folder, limits__group_deadline_seconds=0.5)
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run()):
        await settled(coordinator, lambda: len(coordinator.log.recent) == (STALENESS + 1) * N * SIZE)
    for t in coordinator.log.recent:
        assert t.outcome.failure == trajectory_pb2.Outcome.FAILURE_TIMEOUT and not t.HasField("reward")
    assert (await stream_state(bus, names.log)).messages == (STALENESS + 1) * N * SIZE


async def test_rows_that_are_left_out_are_told(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n' * 3 + '{"prompt": null}\n' * 12)
    recipe = make_recipe(folder, data__train=str(rows), data__bad_rows="skip")
    told = make_coordinator(bus, names, recipe, tmp_path, chat).summary()["rows"]
    assert told["left_out"] == 12 and len(told["first"]) == 10 and "rows.jsonl, line 4" in told["first"][0]


async def test_an_evaluation_goes_on_over_a_restart(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder, data__eval=str(folder / "eval.jsonl"))
    async with running(make_coordinator(bus, names, recipe, tmp_path, chat).run(), play_worker(bus, names, "eval")):
        log = read(bus, names.log)
        async with contextlib.aclosing(log):
            await anext(log)  # the first evaluated sample, with no result yet or just
    async with running(make_coordinator(bus, names, recipe, tmp_path, chat).run(), play_worker(bus, names, "eval")):
        ledger = await until(bus, names, lambda ledger: 0 in ledger.evaluations)
    assert ledger.evaluations[0].samples == 6
    assert ledger.evaluations[0].metrics["reward"] == 0.5


async def test_a_run_that_stands_still_says_so_and_takes_it_back(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder, limits__stall_seconds=1.0), tmp_path, chat)
    async with running(coordinator.run()):
        await settled(coordinator, lambda: bool(coordinator.watch.stall))  # nobody takes the tasks
        assert coordinator.watch.stall.startswith("nothing has moved for")
        assert coordinator.state.value == pb.RUN_STATE_RUNNING
        async with running(play_worker(bus, names, "train")):
            await settled(coordinator, lambda: not coordinator.watch.stall)


def test_a_torn_line_of_metrics_does_not_stop_a_restart(
    folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a"')
    from services.coordinator.reporting.sinks import JsonLines

    sink = JsonLines(path)
    for step in (1, 2, 3):
        sink.write(step, {"a": step})
    sink.write(4, {"a": float("nan"), "b": float("inf")})  # a skipped step's gradient: JSON has no such numbers
    *whole, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert whole == [{"step": s, "a": s} for s in (1, 2, 3)] and last == {"step": 4, "a": None, "b": None}
