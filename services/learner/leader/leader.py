"""Rank 0's part: it decides what every rank does next, and speaks for all of them. The other ranks have an idle one.

next ─► TRAIN a batch, PUBLISH, SAVE, FINISH, END or WAIT ─► every rank does it ─► stepped: report, publish, trace
"""

import argparse
import asyncio
import concurrent.futures
import dataclasses
import enum
import logging
import pathlib
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
from torch import Tensor

from penstock import rpc
from penstock.bus import Bucket, Bus, LoginRefused, RunNames, stream_state, trim
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.learner.v1 import learner_pb2_grpc
from penstock.membership import MemberState, NameTaken, Watcher
from penstock.process import Part, advertised, joined
from penstock.recipes import Recipe
from penstock.rpc import Security, Server
from penstock.system.boot import boot_id
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Adapters, Probe
from services.learner.algorithms.sources import Sources
from services.learner.checkpoints.resume import Position
from services.learner.interface.errors import CannotGoOn
from services.learner.interface.policy import Takes
from services.learner.interface.rate import Rate
from services.learner.leader.epochs import take_epoch
from services.learner.leader.follow import Following
from services.learner.leader.judge import Judge
from services.learner.leader.lineage import tie
from services.learner.leader.link import Link, linked
from services.learner.leader.preparation import Prepared, prepare
from services.learner.leader.record import Batches
from services.learner.leader.server import Learner
from services.learner.leader.status import State, Status
from services.learner.leader.trained import Trained, report_of
from services.learner.publishing.bulk import Bulk
from services.learner.publishing.differences import Differences
from services.learner.publishing.following import LEAVE_SECONDS
from services.learner.publishing.publish import adapters_of, newest, publish
from services.learner.publishing.together import Ranks

logger = logging.getLogger(__name__)
PUBLISH_SECONDS = 300.0
JOIN_SECONDS = 30 * 86400.0
"""For which a learner waits, listed, for its run and for weight_sync."""
CROWDED = 0.9


class Command(enum.Enum):
    """What every rank does next."""

    WAIT = "wait"
    TRAIN = "train"
    PUBLISH = "publish"
    SAVE = "save"
    FINISH = "finish"
    END = "end"


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Whom rank 0 talks to, and where it can be asked: the flags of every service, with --weight-sync."""

    flags: argparse.Namespace
    security: Security


class Leader(Protocol):
    """What the step loop asks of either. Every method is called by the training thread only."""

    def next(self, step: int, within: float, saving: bool) -> tuple[Command, Prepared | None]:
        """What to do next, and the batch of `step` where that is to train; waits `within` seconds at most.

        saving: whether a checkpoint is being written, so that none can be begun.
        """
        ...

    def stepped(self, trained: Trained, tensors: Sequence[tuple[str, Tensor]]) -> Mapping[str, float]:
        """Says what a step has done, and begins to publish what it made; the step's metrics, none on an idle rank.
        Waits for the version before; raises what that one raised."""
        ...

    def lacks(self, step: int) -> bool:
        """Whether weight_sync has lost the version that the weights are, or is that of a fork and never had it."""
        ...

    def publish(self, step: int, tensors: Sequence[tuple[str, Tensor]], probes: Sequence[Probe] = ()) -> None:
        """Begins to publish a version, with what it says of a few samples; `settle` waits for it."""
        ...

    def evaluated(self, report: pb.EvaluationReport) -> None:
        """Appends a measurement of held-out rows to the ledger."""
        ...

    def settle(self) -> None:
        """Waits until the version under way is READY."""
        ...

    def leave(self) -> None:
        """Gives the version under way a moment, and lets it be: the next learner publishes it."""
        ...

    def position(self) -> Position:
        """What of the streams belongs to the current weights."""
        ...

    def trim(self, before: int) -> None:
        """Gives room in the log: nothing at or before `before` is needed any more."""
        ...


class RunLeader:
    """Rank 0's. Made by `leading`."""

    def __init__(
        self,
        link: Link,
        opened: "_Opened",
        sources: Sources,
        adapters: Adapters | None,
        status: Status,
        trims: bool,
        full_every: int,
        tries: bool,
        ranks: Ranks,
    ) -> None:
        """adapters: said of what is published, where that is these alone. trims: whether checkpoints give room.
        full_every: of so many versions one is published whole. tries: whether versions are tried, which begins with the
        one that all others are compared with. ranks: which publish together."""
        self._link, self._opened, self._batches = link, opened, opened.batches
        self._sources, self._adapters, self._status, self._trims = sources, adapters, status, trims
        self._tries, self._ranks = tries, ranks
        self._publishing: concurrent.futures.Future[bool] | None = None
        self._published = threading.Event()
        self._differences = Differences(full_every)
        self._given = opened.held is not None  # whether anything was published that engines could start from
        self._crowded_at = 0  # the step before which a full log was answered: once, be the save good or not

    def next(self, step: int, within: float, saving: bool) -> tuple[Command, Prepared | None]:
        status = self._status
        if status.drain_wanted.is_set() or status.evicted.is_set():
            return Command.FINISH if status.finish_wanted.is_set() else Command.END, None
        if status.save_wanted.is_set() and not saving:
            status.save_wanted.clear()
            return Command.SAVE, None
        unsaved = step - 1 > max(status.checkpoint_step or 0, self._crowded_at)
        if self._trims and not saving and unsaved and self._crowded():
            self._crowded_at = step - 1
            logger.info("the log is nearly full: a checkpoint gives it room", extra={"step": step - 1})
            return Command.SAVE, None
        if step == 1 and not self._given and (self._tries or self._link.do(self._opened.awaited(), 30)):
            self._given = True
            return Command.PUBLISH, None
        status.state = State.STATE_WAITING
        groups = self._link.do(self._batches.batch(step, within), within + 300)
        if groups is None:
            return Command.WAIT, None
        failed, schedule = self._batches.failed(step), self._batches.schedule(step)
        return Command.TRAIN, prepare(groups, self._sources, step - 1, failed, schedule)

    def _crowded(self) -> bool:
        """Whether the log has so little room left that waiting for the next planned checkpoint might stop everybody."""
        return self._link.do(stream_state(self._opened.bus, self._opened.names.log), 60).fill > CROWDED

    def stepped(self, trained: Trained, tensors: Sequence[tuple[str, Tensor]]) -> Mapping[str, float]:
        assert trained.prepared is not None, "rank 0 has the batch"
        self._link.do(self._batches.trained(trained.step), 30)
        report = report_of(trained, self._status)
        self._link.do(self._batches.report(report), 150)
        self.publish(trained.step, tensors, trained.probes)
        tie(trained.step, trained.prepared.trajectories, trained.seconds)
        return report.metrics

    def lacks(self, step: int) -> bool:
        held = self._opened.held
        return step > 0 and (held is None or held.step < step)

    def publish(self, step: int, tensors: Sequence[tuple[str, Tensor]], probes: Sequence[Probe] = ()) -> None:
        self.settle()
        version = publish(
            self._opened.channel,
            self._status.epoch,
            step,
            tensors,
            PUBLISH_SECONDS,
            self._adapters,
            recorded=max(step, self._opened.following.ledger.step),
            differences=self._differences,
            probes=probes,
            host=boot_id(),
            ranks=self._ranks,
            address=self._opened.weight_sync,
            bulk=self._opened.bulk,
        )
        self._published.clear()
        self._publishing = self._link.begin(self._until_published(version))

    async def _until_published(self, version: Coroutine[Any, Any, bool]) -> bool:
        try:
            return await version
        finally:
            self._published.set()

    def evaluated(self, report: pb.EvaluationReport) -> None:
        self._link.do(self._batches.evaluated(report), 150)

    def settle(self) -> None:
        if self._publishing is not None:
            self._publishing.result(PUBLISH_SECONDS + 60)
            self._publishing = None

    def leave(self) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is None:
            return
        try:
            publishing.result(LEAVE_SECONDS)
        except TimeoutError:
            publishing.cancel()
            told = self._published.wait(LEAVE_SECONDS)
            rest = "" if told else "; the other ranks are not told yet"
            logger.warning("the version under way is not READY yet, and is left to the next learner%s", rest)
        except (rpc.RpcError, RuntimeError) as error:  # a rank that died, too
            logger.warning("the version under way is left to the next learner: %s", error)

    def position(self) -> Position:
        return self._link.do(self._batches.position(), 30)

    def trim(self, before: int) -> None:
        self._link.do(trim(self._opened.bus, self._opened.names.log, before=before + 1), 60)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """Rank 0's connections. held: the newest version of weight_sync, whose address that is, when they were opened."""

    bus: Bus
    names: RunNames
    channel: grpc.aio.Channel
    following: Following
    batches: Batches
    held: PolicyVersion | None
    watcher: Watcher
    weight_sync: str
    bulk: Bulk

    async def awaited(self) -> bool:
        """Whether an engine is there that has no weights, and can have none before version 0 is published."""
        return any(member.awaits_weights for member in self.watcher.view.of("generation"))


@contextmanager
def leading(
    recipe: Recipe,
    addresses: Addresses,
    status: Status,
    sources: Sources,
    position: Position,
    takes: Takes,
    checkpoints: pathlib.Path,
    ranks: Ranks,
) -> Iterator[RunLeader]:
    """Rank 0's Leader, whose thread and connections live as long as the block.

    position: from the checkpoint that the weights are of. takes: what these can be trained on. checkpoints: where they
    are kept. ranks: which publish together.
    """
    with linked() as link:
        opened = link.do(_open(link, recipe, addresses, status, sources, position, takes, checkpoints), JOIN_SECONDS)
        trims, full_every = not recipe.limits.keep_log, recipe.weight_sync.full_every
        tries = recipe.canary is not None
        yield RunLeader(link, opened, sources, adapters_of(recipe), status, trims, full_every, tries, ranks)


async def _open(
    link: Link,
    recipe: Recipe,
    addresses: Addresses,
    status: Status,
    sources: Sources,
    position: Position,
    takes: Takes,
    checkpoints: pathlib.Path,
) -> _Opened:
    """Connects, takes a new epoch, follows the streams, serves, takes part. Runs on the loop.

    Raises CannotGoOn where NATS does not let it in.
    """
    stack, algorithm, flags = link.stack, recipe.algorithm, addresses.flags
    try:
        part = await stack.enter_async_context(joined(flags, recipe.run, addresses.security, flags.metrics_port))
    except LoginRefused as refused:
        raise CannotGoOn(str(refused)) from refused
    bus, names = part.bus, part.names
    weight_sync = flags.weight_sync or await part.address_of("weight_sync")
    channel = await stack.enter_async_context(rpc.channel(weight_sync, security=addresses.security))
    held = await newest(channel)
    epoch = await take_epoch(Bucket(bus, names), above=held.epoch if held is not None else 0)
    status.epoch = epoch.number
    following = Following(bus, names, algorithm.groups_per_step, status.step, position.log_cursor, takes)
    trial = recipe.canary is not None and not recipe.canary.train_rejected
    judge = Judge(bus, names, following, sources, algorithm.min_group_fraction, epoch, trial=trial)
    server = await stack.enter_async_context(
        Server(flags.name, flags.listen, security=addresses.security, reflection=flags.reflection)
    )
    server.add(learner_pb2_grpc.add_LearnerServiceServicer_to_server, Learner(status, following, str(checkpoints)))
    await server.start()
    if flags.announce is not None:
        server.announce(flags.announce)
    await part.announce(flags.advertise or advertised(server.address, flags.nats))
    await part.say(MemberState.MEMBER_STATE_READY)
    await link.beside(_all(following.run(), judge.run(), _taking_part(part, status, flags, weight_sync)))
    schedule = Rate.of(recipe).recorded()
    batches = Batches(bus, names, following, judge, recipe.staleness.max_versions, epoch, schedule)
    return _Opened(bus, names, channel, following, batches, held, part.watcher, weight_sync, Bulk(addresses.security))


async def _taking_part(part: Part, status: Status, flags: argparse.Namespace, weight_sync: str) -> None:
    """Announces the learner for ever. Raises CannotGoOn where another one has its name, PeerMoved where weight_sync is
    elsewhere."""

    async def until_over() -> None:
        await part.watcher.until_over()
        logger.info("the run is over (%s): the learner ends", part.watcher.over)
        status.drain_wanted.set()

    assert part.announcer is not None
    try:
        moved = [] if flags.weight_sync else [part.until_moved("weight_sync", weight_sync)]
        await _all(part.announcer.run(), *moved, *([until_over()] if flags.ends_with_run else []))
    except NameTaken as taken:
        raise CannotGoOn(str(taken)) from taken


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all of it until one fails; raises what that one raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
