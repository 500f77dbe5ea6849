"""A run as the page's tests need it: streams on a real NATS, written as coordinator, workers and learner write them."""

import asyncio
import dataclasses
import math
import pathlib
import random
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import yaml

from penstock.bus import Bus, RunLimits, RunNames, append, ensure_run, publish_once, store_payload
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message, PolicyVersion
from penstock.generation.v1 import generation_pb2, generation_pb2_grpc
from penstock.tiny_model import make_model
from penstock.trajectories import TrajectoryBuilder, check_trajectory, encode, failed
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc

STEPS, MAX_STEPS, GROUPS, SIZE = 520, 640, 2, 8
LOGGED = 1044
"""The first of three groups that the log has, all trained."""
SMALL = RunLimits(log_bytes=64 << 20, tasks_bytes=16 << 20, ledger_bytes=64 << 20, blob_bytes=64 << 20)


@dataclasses.dataclass
class Pages:
    """What a test drives: the page's address, the coordinator's command line, its process."""

    url: str
    coordinator: Sequence[str]
    process: asyncio.subprocess.Process


class FakeReplica(generation_pb2_grpc.GenerationServiceServicer):
    """A replica that serves a version and draws nothing."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    Drain: ClassVar[Any]
    Generate: ClassVar[Any]
    Resume: ClassVar[Any]
    ScoreTokens: ClassVar[Any]

    async def GetEngine(
        self, request: generation_pb2.GetEngineRequest, context: Any
    ) -> generation_pb2.GetEngineResponse:
        return generation_pb2.GetEngineResponse(version=PolicyVersion(epoch=1, step=STEPS - 1), running=12)


class FakeStore(weights_pb2_grpc.WeightSyncServiceServicer):
    """A version store that serves the version before the last, which was rejected."""

    # Nobody asks it these, as above.
    AbortVersion: ClassVar[Any]
    BeginVersion: ClassVar[Any]
    CommitVersion: ClassVar[Any]
    DecideVersion: ClassVar[Any]
    FetchDifference: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    GetManifest: ClassVar[Any]
    HoldVersions: ClassVar[Any]
    OpenBulk: ClassVar[Any]
    OpenPush: ClassVar[Any]
    PushDifference: ClassVar[Any]
    PushTensors: ClassVar[Any]
    ReleaseHold: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]

    async def ListVersions(
        self, request: weights_pb2.ListVersionsRequest, context: Any
    ) -> weights_pb2.ListVersionsResponse:
        served = PolicyVersion(epoch=1, step=STEPS - 1)
        rejected = weights_pb2.VersionInfo(
            version=PolicyVersion(epoch=1, step=STEPS),
            state=weights_pb2.VERSION_STATE_REJECTED,
            size=3 << 20,
            difference=1 << 20,
            reason="<b>worse</b>",
        )
        ready = weights_pb2.VersionInfo(version=served, state=weights_pb2.VERSION_STATE_READY, size=3 << 20)
        gone = weights_pb2.VersionInfo(version=PolicyVersion(epoch=1, step=1), state=weights_pb2.VERSION_STATE_RETIRED)
        receiver = weights_pb2.Receiver(name="generation-0", version=served, path=weights_pb2.PATH_DIFFERENCE)
        receiver.bytes = 1 << 20
        receiver.pause.FromMilliseconds(250)
        return weights_pb2.ListVersionsResponse(versions=[rejected, ready, gone], receivers=[receiver], served=served)


def write_recipe(folder: pathlib.Path) -> pathlib.Path:
    """The recipe of the run, with its model and data."""
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "train.jsonl").write_text("".join(f'{{"prompt": "{i:03d}cab"}}\n' for i in range(64)))
    recipe = {
        "run": "sort-characters-grpo",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": MAX_STEPS, "groups_per_step": GROUPS, "group_size": SIZE},
        "telemetry": {"tensorboard": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


async def write_ledger(bus: Bus, names: RunNames) -> None:
    """STEPS trained steps; every 40th has a filtered group more, every 120th a failed one."""
    await ensure_run(bus, names, SMALL)
    rng, groups, log = random.Random(0), 0, 0
    admissions, releases, records, reports = [], [], [], []
    for step in range(1, STEPS + 1):
        record = pb.BatchRecord(step=step)
        extra = [kind for kind, every in (("filtered", 40), ("failed", 120)) if step % every == 0]
        for kind in [*["trained"] * GROUPS, *extra]:
            name = f"g{groups:08d}"
            groups += 1
            admissions.append(_admission(name, step))
            if kind == "trained":
                record.groups.add(group=name, indices=range(SIZE), log_sequences=range(log + 1, log + SIZE + 1))
                log += SIZE
            else:
                releases.append(_release(name, kind))
        records.append(record)
        reports.append(_report(step, rng))
    await _append_all(bus, ((names.ledger_group_subject(e.group), e) for e in admissions))
    for event in releases:
        subject = names.ledger_group_subject(event.group)
        await append(bus, subject, event.SerializeToString(), expected_last_sequence=None)
    for record in records:
        subject = names.ledger_batch_subject(record.step)
        await append(bus, subject, record.SerializeToString(), expected_last_sequence=0)
    await _append_all(bus, ((names.ledger_step_subject(r.step), r) for r in reports))
    evaluations = [_evaluation(step) for step in range(0, STEPS + 1, 100)]
    await _append_all(bus, ((names.ledger_eval_subject(e.step), e) for e in evaluations))


async def write_log(bus: Bus, names: RunNames, model: pathlib.Path, hostile: str) -> None:
    """Samples of every kind of end; one drawn text and one failure's detail are `hostile`."""
    chat = await asyncio.to_thread(ChatTokenizer, model)
    rng = random.Random(1)
    for i in range(24):
        task, right = _task(f"g{LOGGED + i // SIZE:08d}", rng), i % 3 != 0
        text = "".join(sorted(task.rollout.task.messages[0].content))
        pieces = [(text if right else text[::-1], STEPS - 1)]
        if i % 2:
            pieces = [(text[:5], STEPS - 2), (text[5:11], STEPS - 1), (text[11:], STEPS)]
        if i == 22:
            pieces = [(hostile, STEPS)]
        if i == 19:
            t = failed(
                task, i % SIZE, str(model), pb.Outcome.FAILURE_REWARD, f"judge: {hostile}<script>stolen()</script>"
            )
        elif i == 20:
            detail = "no replica generated within 300 s (0 failed attempts)"
            t = failed(task, i % SIZE, str(model), pb.Outcome.FAILURE_TIMEOUT, detail)
        else:
            t = _trajectory(chat, task, i % SIZE, [p for p in pieces if p[0]], 1.0 if right else 0.0, truncated=i == 17)
            check_trajectory(t)
        envelope = await store_payload(bus, names, encode(t))
        await publish_once(bus, names.log_subject(t.group, t.index), envelope)


def _trajectory(
    chat: ChatTokenizer,
    task: pb.GroupTask,
    index: int,
    pieces: Sequence[tuple[str, int]],
    reward: float,
    *,
    truncated: bool,
) -> pb.Trajectory:
    builder = TrajectoryBuilder()
    builder.context("user", chat.render(task.rollout.task.messages))
    builder.begin_completion()
    frame = len(chat.render([Message(role="user", content="")]))
    for text, step in pieces:
        tokens = chat.render([Message(role="user", content=text)])[1 : 1 - frame]
        segment = pb.VersionSegment(first=0, version=PolicyVersion(epoch=1, step=step))
        builder.drawn(tokens, [-0.1] * len(tokens), [segment])
    builder.end_completion(pb.FINISH_REASON_STOP)
    t = builder.fill(header(task, index, task.run))
    t.reward = reward
    t.outcome.status = pb.Outcome.STATUS_TRUNCATED if truncated else pb.Outcome.STATUS_COMPLETED
    return t


def _task(group: str, rng: random.Random) -> pb.GroupTask:
    prompt = "".join(rng.sample("0123456789abcdefghijklmnopqrstuvwxyz", rng.randint(12, 30)))
    task = pb.GroupTask(run="sort-characters-grpo", group=group, kind=pb.TASK_KIND_TRAIN, group_size=SIZE)
    task.rollout.task.id = "train/1"
    task.rollout.task.messages.add(role="user", content=prompt)
    task.rollout.sampling.temperature = task.rollout.sampling.top_p = 1.0
    task.rollout.sampling.max_tokens = 64
    return task


def _admission(name: str, step: int) -> pb.LedgerEvent:
    event = pb.LedgerEvent(group=name, writer="coordinator")
    event.at.GetCurrentTime()
    event.at.seconds -= 3 * (STEPS - step)
    event.admitted.group_size = SIZE
    return event


def _release(name: str, kind: str) -> pb.LedgerEvent:
    event = pb.LedgerEvent(group=name, writer="learner")
    if kind == "filtered":
        event.filtered.reason = pb.FILTER_REASON_ZERO_VARIANCE
    else:
        event.failed.failures["FAILURE_TIMEOUT"] = 5
        event.failed.detail = "5 of 8 timed out"
    return event


def _report(step: int, rng: random.Random) -> pb.StepReport:
    learnt = 1 / (1 + math.exp(-(step - 160) / 70))
    length = 12 + 4 * learnt + rng.gauss(0, 0.7)
    report = pb.StepReport(step=step, version=PolicyVersion(epoch=1, step=step))
    report.at.GetCurrentTime()
    report.metrics.update(
        {
            "rl.reward.mean": min(1.0, max(0.0, 0.12 + 0.8 * learnt + rng.gauss(0, 0.05))),
            "rl.reward.std": 0.31,
            "rl.loss": -0.02 * math.exp(-step / 200) + rng.gauss(0, 0.004),
            "rl.staleness.mean": 0.9 + 0.3 * rng.random(),
            "rl.staleness.max": float(rng.choice([1, 2, 2, 2])),
            "rl.tokens.generated": length * GROUPS * SIZE * 20,
            "rl.tokens.trained": 2.1 * length * GROUPS * SIZE * 20,
            "rl.completion.length.mean": length,
            "rl.completion.length.max": length * 2.6,
            "rl.step.seconds": 2.9 + rng.gauss(0, 0.15),
            "rl.train.seconds": 2.2 + rng.gauss(0, 0.05),
            "rl.policy.entropy": 1.4 - learnt,
            "rl.policy.grad_norm": 0.6 + rng.random() / 5,
            "rl.policy.mismatch_kl": 1e-4 * rng.random(),
            "rl.reward.component.sorted": learnt,
            "rl.reward.component.format": 0.9,
        }
    )
    return report


def _evaluation(step: int) -> pb.EvaluationReport:
    report = pb.EvaluationReport(step=step, samples=128)
    report.metrics["reward"] = 0.1 + 0.83 / (1 + math.exp(-(step - 150) / 70))
    return report


async def _append_all(bus: Bus, entries: Iterable[tuple[str, Any]]) -> None:
    """Appends in any order, many at once."""
    places = asyncio.Semaphore(64)

    async def one(subject: str, entry: Any) -> None:
        async with places:
            await append(bus, subject, entry.SerializeToString(), expected_last_sequence=0)

    async with asyncio.TaskGroup() as tasks:
        for subject, entry in entries:
            tasks.create_task(one(subject, entry))
