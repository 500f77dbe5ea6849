"""One harness for every RPC and every stream: almost right messages, for as long as one likes, and what went wrong.

Services are asked what they serve (reflection), and messages are made from descriptors: a new RPC, field or service is
attacked without being named here. What must hold: every call ends in bounded time with a definite status; what the
contract forbids is refused; nobody dies, hangs or grows; readers of streams set aside what is no entry and go on;
nothing that a policy cannot be trained on is kept for training.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import math
import pathlib
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import penstock
from penstock import rpc
from penstock.bus import Bus, append, publish_once, read, store_payload
from penstock.rpc import Transport
from penstock.testing.hostile_messages import Attack, Target, check_health, judge, unacceptable
from penstock.trajectories import decode, encode
from penstock.trajectory.v1 import trajectory_pb2 as pb
from tests.fuzz.messages import Maker, parsed
from tests.fuzz.system import NAMES, TAKES, System

SECONDS = 30.0
"""In which every call must end."""
AT_ONCE = 8
GROWTH = 96 << 20
"""Bytes by which a process may grow while it is attacked: caches and quarantine lists that are bounded fill up."""
ENDS_THE_RUN = ("StopRun",)
"""Called in the last tenth alone: what is stopped reads nothing any more."""


@dataclass(frozen=True)
class Amount:
    """How much is sent: calls of RPCs, entries of streams."""

    calls: int
    entries: int


@dataclass(frozen=True)
class Seeds:
    """Real entries of the run, and numbers for those that are made."""

    samples: list[pb.Trajectory]
    tasks: list[pb.GroupTask]
    events: list[pb.LedgerEvent]
    numbers: Iterator[int] = field(default_factory=itertools.count)


async def fuzz(system: System, seed: int, amount: Amount) -> list[str]:
    """Attacks everything; a sentence for each thing that did not withstand."""
    maker = Maker(random.Random(seed))
    seeds = await _seeds(system)
    async with _targets(system, maker) as targets:
        methods = [(target, method) for target, services in targets for s in services for method in s.methods]
        assert len(methods) > 30, "the servers say less than they serve"
        await _calls(methods, maker, amount.calls // 10)
        await _entries(system, maker, seeds, amount.entries // 10)
        before = system.resident()
        await _calls(methods, maker, amount.calls * 8 // 10)
        await _entries(system, maker, seeds, amount.entries * 9 // 10)
        await _calls(methods, maker, amount.calls // 10, last=True)
        for target, services in targets:
            for service in services:
                await check_health(target, service.full_name)
        found = [finding for target, _ in targets for finding in target.findings]
    return [*found, *await _after(system), *_grown(before, system.resident())]


async def _seeds(system: System) -> Seeds:
    """What the run has made by itself, as soon as there is some of each."""
    bus = system.bus
    async with asyncio.timeout(60):
        async with aclosing(read(bus, NAMES.log)) as log:
            await anext(log)
    samples = [decode(e.payload[1:]) async for e in read(bus, NAMES.log, live=False)]
    tasks = [pb.GroupTask.FromString(e.payload) async for e in read(bus, NAMES.tasks, live=False)]
    events = [pb.LedgerEvent.FromString(e.payload) async for e in read(bus, NAMES.ledger, live=False)]
    return Seeds(samples, tasks, events)


@asynccontextmanager
async def _targets(system: System, maker: Maker) -> AsyncIterator[list[tuple[Target, list[ServiceDescriptor]]]]:
    """Every server with the services that it says it has."""
    known = {s.full_name: s for s in _services()}

    def heard(method: MethodDescriptor, answer: bytes) -> None:
        message = parsed(method.output_type, answer)
        if message is not None:
            maker.remember(message)

    async with AsyncExitStack() as stack:
        targets = []
        limit = Transport().max_message_bytes
        for address in system.addresses.values():
            opened = await stack.enter_async_context(rpc.channel(address, transport=Transport(4 * limit)))
            served = [known[name] for name in await _served(opened) if name in known]
            targets.append((Target(opened, limit, SECONDS, heard=heard), served))
        yield targets


def _services() -> Iterable[ServiceDescriptor]:
    for folder in penstock.__path__:
        for path in sorted(pathlib.Path(folder).rglob("*_pb2.py")):
            module = ".".join(("penstock", *path.relative_to(folder).with_suffix("").parts))
            yield from importlib.import_module(module).DESCRIPTOR.services_by_name.values()


async def _served(opened: grpc.aio.Channel) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([ask]), timeout=SECONDS):
        return [service.name for service in answer.list_services_response.service]
    return []


async def _calls(
    methods: list[tuple[Target, MethodDescriptor]], maker: Maker, count: int, *, last: bool = False
) -> None:
    """So many calls, a few at a time."""
    numbers = iter(range(count))
    chosen = [each for each in methods if last or each[1].name not in ENDS_THE_RUN]

    async def work() -> None:
        for number in numbers:
            target, method = maker.chance.choice(chosen)
            kind = GetMessageClass(method.input_type)
            sizes = range(maker.chance.choice((1, 1, 2, 3)) if method.client_streaming else 1)
            payloads = [maker.payload(maker.message(method.input_type)) for _ in sizes]
            refuse = any(unacceptable(kind, payload) for payload in payloads[:1])
            name = f"call {number}: {b' | '.join(payloads)[:400]!r}"
            await judge(target, method, Attack(name, b"".join(payloads), refuse), payloads)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())


async def _entries(system: System, maker: Maker, seeds: Seeds, count: int) -> None:
    """So many entries in every stream that somebody reads, made from real ones."""
    bus, chance = system.bus, maker.chance
    for _ in range(count):
        number = next(seeds.numbers)
        match chance.randrange(4):
            case 0 | 1:
                await _sample(bus, maker, chance.choice(seeds.samples), number)
            case 2:
                task = pb.GroupTask()
                task.CopyFrom(chance.choice(seeds.tasks))
                task.group = chance.choice((task.group, f"g9{number:07d}"))
                subject = NAMES.task_subject(chance.choice(("train", "eval")), f"g9{number:07d}")
                await publish_once(bus, subject, maker.payload(task))
            case _:
                await _decision(bus, maker, chance.choice(seeds.events), number)


async def _sample(bus: Bus, maker: Maker, good: pb.Trajectory, number: int) -> None:
    """A sample under a subject of its own, or of one that is awaited."""
    chance = maker.chance
    group = chance.choice((good.group, f"g{chance.randrange(40):08d}", f"g9{number:07d}", "x"))
    subject = NAMES.log_subject(group, chance.choice((good.index, 0, 1, 2, number, 2**32)))
    copied = pb.Trajectory()
    copied.CopyFrom(good)
    if chance.random() < 0.7:
        copied.group, copied.index = group, int(subject.rpartition(".")[2]) % 2**32
    changed = parsed(pb.Trajectory.DESCRIPTOR, maker.payload(copied))
    payload = encode(changed) if isinstance(changed, pb.Trajectory) else b"(\xb5/\xfd" + chance.randbytes(40)
    envelope = await store_payload(bus, NAMES, payload) if chance.random() < 0.9 else chance.randbytes(20)
    await publish_once(bus, subject, envelope)


async def _decision(bus: Bus, maker: Maker, good: pb.LedgerEvent, number: int) -> None:
    """An entry of the ledger that says something else than its subject, or nothing."""
    chance = maker.chance
    kinds: tuple[type[Message], ...] = (
        pb.LedgerEvent,
        pb.BatchRecord,
        pb.StepReport,
        pb.EvaluationReport,
        pb.RecipeRecord,
    )
    made = maker.payload(maker.message(chance.choice(kinds).DESCRIPTOR))
    group = f"g{chance.randrange(40):08d}"
    subject = chance.choice(
        (
            NAMES.ledger_group_subject(f"g9{number:07d}"),
            NAMES.ledger_group_subject(group),
            NAMES.ledger_batch_subject(1000 + number),
            NAMES.ledger_step_subject(1000 + number),
            NAMES.ledger_eval_subject(number),
            NAMES.ledger_recipe_subject(number),
        )
    )
    whole = maker.payload(good) if chance.random() < 0.3 else made
    await append(bus, subject, whole, expected_last_sequence=None)


async def _after(system: System) -> list[str]:
    """Who has died or stopped reading, and what was kept that must not be."""
    found = []
    for name, process in system.processes.items():
        if process.returncode is not None:
            found.append(f"{name} ended with {process.returncode}: {system.last_words(name)}")
    for task in system.learner:
        if task.done():
            found.append(f"the learner's {task.get_coro()} ended: {task.exception()!r}")
    if not found:
        try:
            async with asyncio.timeout(SECONDS):
                await system.following.current()
                await system.following.log_current()
        except TimeoutError:
            found.append("the learner does not read its streams any more")
    for group in (system.following.assembly.next_batch() or [])[:8]:
        for member in group.members:
            t = member.trajectory
            tokens = memoryview(t.tokens).cast("i") if len(t.tokens) % 4 == 0 else []
            if not math.isfinite(t.reward) or any(not 0 <= token < TAKES.vocabulary for token in tokens):
                found.append(f"{t.group}/{t.index} is kept for training, and cannot be trained")
    return found


def _grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return [
        f"{name} grew from {before[name] >> 20} to {after[name] >> 20} MiB"
        for name in before
        if after[name] > before[name] + GROWTH
    ]
