"""A run as the coordinator's tests need it: a recipe, streams on a real NATS, and who plays workers and learner.

`play_worker` takes tasks from the stream like a rollout worker; `play_learner` writes ledger entries like the learner:
it consumes groups in the order of their admission, n per batch, and filters or fails those it is told to.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import yaml

from penstock import rpc
from penstock.bus import (
    Bucket,
    Bus,
    RunNames,
    TaskConsumer,
    append,
    last_entry,
    publish_once,
    read,
    store_payload,
    stream_state,
)
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.ledger import Ledger
from penstock.names import group_number
from penstock.recipes import Recipe, resolve
from penstock.tiny_model import make_model
from penstock.trajectories import TrajectoryBuilder, encode
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.coordinator import Coordinator
from services.coordinator.reporting.sinks import sinks
from services.coordinator.state.peers import Peers

N, SIZE, STALENESS = 2, 3, 1


def make_recipe(folder: pathlib.Path, **overrides: Any) -> Recipe:
    """A recipe that can be loaded, with its model and data; `overrides` are recipe keys with __ for the dot."""
    if not (folder / "model").exists():
        make_model(folder / "model", hidden=32, layers=1, intermediate=64)
        for name, rows in (("train", 7), ("eval", 3)):
            (folder / f"{name}.jsonl").write_text("".join(f'{{"prompt": "{name[0]}{i}"}}\n' for i in range(rows)))
    raw = {
        "run": "r1",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 5, "groups_per_step": N, "group_size": SIZE},
        "staleness": {"max_versions": STALENESS},
        "evaluation": {"tasks": 3, "samples_per_task": 2},
        "telemetry": {"tensorboard": False},
    }
    recipe = resolve(raw, [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return recipe


def make_coordinator(
    bus: Bus,
    names: RunNames,
    recipe: Recipe,
    folder: pathlib.Path,
    chat: ChatTokenizer,
    peers: Peers | None = None,
) -> Coordinator:
    """A coordinator as __main__ makes it, without peers unless some are given."""
    return Coordinator(bus, names, recipe, folder, peers or Peers({}, {}), sinks(folder, recipe), chat)


@contextlib.asynccontextmanager
async def running(*work: Any, within: float = 25.0) -> AsyncIterator[None]:
    """Coroutines beside the block; their failure is the block's, and it ends after `within` seconds."""
    async with asyncio.timeout(within), asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(each) for each in work]
        try:
            yield
        finally:
            for each in started:
                each.cancel()


async def fold(bus: Bus, names: RunNames) -> Ledger:
    """The ledger as anybody would fold it now; a contradiction raises LedgerError."""
    ledger = Ledger()
    async for entry in read(bus, names.ledger, live=False):
        ledger.apply(entry.subject, entry.payload, entry.sequence)
    return ledger


async def until(bus: Bus, names: RunNames, condition: Callable[[Ledger], bool], within: float = 30.0) -> Ledger:
    """Follows the ledger until the condition holds of it."""
    ledger = Ledger()
    async with asyncio.timeout(within):
        async with contextlib.aclosing(read(bus, names.ledger)) as entries:
            async for entry in entries:
                ledger.apply(entry.subject, entry.payload, entry.sequence)
                if condition(ledger):
                    return ledger
    raise AssertionError("the ledger ended")


async def settled(coordinator: Coordinator, condition: Callable[[], bool], within: float = 30.0) -> None:
    """Waits until the coordinator's own state says so."""
    async with asyncio.timeout(within):
        seen = -1
        while not condition():
            seen = await coordinator.following.changed(seen, 0.1)


async def told_over(bus: Bus, names: RunNames, word: str, within: float = 10.0) -> None:
    """Waits until those who take part are told that the run is over, and how."""
    async with asyncio.timeout(within):
        while (held := await Bucket(bus, names).get(names.over_key)) is None or held.value.decode() != word:
            await asyncio.sleep(0.02)


def drawn(task: pb.GroupTask, index: int, reward: float = 1.0, step: int = 0) -> pb.Trajectory:
    """A completed sample of a task."""
    builder = TrajectoryBuilder()
    builder.context("user", [3, 6, 2, 4])
    builder.begin_completion()
    builder.drawn([7, 8, 2], [-0.1, -0.2, -0.3], [pb.VersionSegment(version=PolicyVersion(epoch=1, step=step))])
    builder.end_completion(pb.FINISH_REASON_STOP)
    t = builder.fill(header(task, index, "model"))
    t.reward = reward
    t.outcome.status = pb.Outcome.STATUS_COMPLETED
    t.ended_at.GetCurrentTime()
    return t


async def publish(bus: Bus, names: RunNames, t: pb.Trajectory) -> None:
    """Puts a sample into the log."""
    await publish_once(bus, names.log_subject(t.group, t.index), await store_payload(bus, names, encode(t)))


async def play_worker(
    bus: Bus,
    names: RunNames,
    kind: str,
    seen: list[pb.GroupTask] | None = None,
    reward: Callable[[int], float] | None = None,
) -> None:
    """Completes every task at once, for ever. reward: of a version's samples; 0 and 1 by turns if absent."""
    consumer = TaskConsumer(bus, names, "eval" if kind == "eval" else "train", ack_wait=5, max_in_flight=16)
    async for task in consumer:
        async with task:
            work = pb.GroupTask.FromString(task.payload)
            if seen is not None:
                seen.append(work)
            for index in range(work.group_size):
                step = work.rollout.pinned_step if kind == "eval" else work.rollout.min_step
                value = (index + work.row) % 2 if reward is None else reward(step)
                await publish(bus, names, drawn(work, index, reward=value, step=step))
            await task.done()


async def play_learner(
    bus: Bus,
    names: RunNames,
    steps: int,
    *,
    fate: Callable[[int], str] = lambda number: "trained",
    played: bool = False,
) -> None:
    """Trains up to step `steps`, N groups each, in the order of admission; `fate` of a group's number may differ.

    played: whether it waits until a worker has played them. It goes on where an earlier one ended, and takes no
    step before the one before has come back through the ledger.
    """
    ledger, recorded, decided = Ledger(), 0, set[str]()
    end = (await stream_state(bus, names.ledger)).last_sequence
    async with contextlib.aclosing(read(bus, names.ledger)) as entries:
        async for entry in entries:
            ledger.apply(entry.subject, entry.payload, entry.sequence)
            if ledger.sequence < end:
                continue
            fates = {name: fate(group_number(name)) for name in ledger.in_flight if name not in decided}
            for name in (n for n, f in fates.items() if f != "trained"):
                decided.add(name)
                await release(bus, names, name, fates[name])
            ready = [name for name, f in fates.items() if f == "trained"]
            if len(ready) >= N and ledger.step >= recorded:
                recorded, sizes = ledger.step + 1, {n: ledger.groups[n].admitted.group_size for n in ready[:N]}
                for name, size in sizes.items() if played else ():
                    while await last_entry(bus, names.log, names.log_subject(name, size - 1)) is None:
                        await asyncio.sleep(0.02)
                await train(bus, names, recorded, sizes)
                if recorded == steps:
                    return


async def release(bus: Bus, names: RunNames, name: str, fate: str) -> None:
    """Filters or fails a group."""
    event = pb.LedgerEvent(group=name, writer="learner")
    if fate == "filtered":
        event.filtered.reason = pb.FILTER_REASON_ZERO_VARIANCE
    else:
        event.failed.failures["FAILURE_TIMEOUT"] = SIZE
        event.failed.detail = "all timed out"
    await append(bus, names.ledger_group_subject(name), event.SerializeToString(), expected_last_sequence=None)


async def train(bus: Bus, names: RunNames, step: int, groups: dict[str, int]) -> None:
    """Records a batch of these groups, by their sizes, and its report."""
    record = pb.BatchRecord(step=step)
    for name, size in groups.items():
        record.groups.add(group=name, indices=range(size), log_sequences=range(1, size + 1), reward=0.5)
    subject = names.ledger_batch_subject(step)
    await append(bus, subject, record.SerializeToString(), expected_last_sequence=0)
    report = pb.StepReport(step=step, version=PolicyVersion(epoch=1, step=step))
    report.at.GetCurrentTime()
    report.metrics.update({"rl.reward.mean": 0.1 * step, "rl.tokens.trained": 10.0, "rl.step.seconds": 1.0})
    await append(bus, names.ledger_step_subject(step), report.SerializeToString(), expected_last_sequence=0)


@contextlib.asynccontextmanager
async def served(adder: Callable[[Any, Any], None], servicer: object) -> AsyncIterator[Any]:
    """A channel to a servicer over loopback."""
    async with rpc.Server("test") as server:
        server.add(adder, servicer)
        await server.start()
        async with rpc.channel(server.address, default_seconds=10) as channel:
            yield channel
