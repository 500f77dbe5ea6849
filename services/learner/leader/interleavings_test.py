"""Whatever moment a learner is killed at, and however little of the streams a reader gets at once, the batches are the
same: every one of these is tried in the small, over streams in memory.

A life is killed at its n-th write, before the stream has it or after (its acknowledgement is lost); the next begins at
any checkpoint that the one before can have written, and pulls k entries at a time.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.bus import Bucket, Entry, Fenced, StreamState
from penstock.ledger import Ledger, dump, load
from penstock.trajectories import encode
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources
from services.learner.leader import follow, judge, record
from services.learner.leader.epochs import Epoch
from services.learner.leader.run_testing import NAMES, SIZE, TAKES, sample
from services.learner.testing.recipes import recipe_of

STEPS, PER_STEP = 2, 2
FILTERED = 1  # the number of a group without signal, between those of the first batch
GROUPS = STEPS * PER_STEP + 1
WRITES = STEPS + 1  # of a life that is not killed: its batches, and the end of the filtered group


class Killed(BaseException):
    """The process is gone."""


class Streams:
    """The run's two streams, and the process that writes to them until its `left` writes are used up."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {NAMES.ledger: [], NAMES.log: []}
        self.pull, self.left, self.stored, self.behind = 1, 10**9, False, -1
        self._grown = asyncio.Condition()

    def put(self, stream: str, subject: str, payload: bytes) -> int:
        entries = self.entries[stream]
        entries.append(Entry(len(entries) + 1, subject, payload, {}, datetime.now(UTC)))
        return len(entries)

    async def append(
        self, bus: object, subject: str, payload: bytes, *, expected_last_sequence: int | None, within: float
    ) -> int:
        self.left -= 1
        if self.left < 0 and not self.stored:
            raise Killed
        last = max((e.sequence for e in self.entries[NAMES.ledger] if e.subject == subject), default=0)
        if expected_last_sequence not in (None, last):
            raise Fenced(subject, expected_last_sequence or 0, last)
        sequence = self.put(NAMES.ledger, subject, payload)
        if self.left < 0:
            raise Killed
        async with self._grown:
            self._grown.notify_all()
        return sequence

    async def read(self, bus: object, stream: str, *, after: int = 0) -> AsyncIterator[Entry]:
        while True:
            async with self._grown:
                while len(self.entries[stream]) <= after:
                    await self._grown.wait()
            pull = self.pull if stream == NAMES.ledger else GROUPS * SIZE
            for entry in self.entries[stream][after : after + pull]:
                after = entry.sequence
                yield entry
            for _ in range(50):  # the next piece takes longer than anybody who would decide on this one
                await asyncio.sleep(0)

    async def snapshot(self, bus: object, names: object, last: int, *, step: int) -> Ledger | None:
        """What a coordinator kept `behind` entries before the end; none for a negative number."""
        return snapshot_of(self, max(0, last - self.behind), step) if self.behind >= 0 else None

    async def stream_state(self, bus: object, stream: str) -> StreamState:
        return StreamState(len(self.entries[stream]), 0, 1, len(self.entries[stream]))


async def load_payload(bus: object, names: object, payload: bytes) -> bytes:
    return payload


def snapshot_of(streams: Streams, entries: int, step: int) -> Ledger:
    """The ledger as a coordinator has kept it, after so many entries, for a learner whose checkpoint is of `step`."""
    ledger = Ledger()
    for entry in streams.entries[NAMES.ledger][:entries]:
        ledger.apply(entry.subject, entry.payload, entry.sequence)
    ledger.forget(step)
    return load(dump(ledger, {}))


class Alone(Bucket):
    """A bucket in which no later learner has begun."""

    async def get(self, key: str) -> None:
        return None


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Streams]:
    def made() -> Streams:
        new = Streams()
        monkeypatch.setattr(follow, "read", new.read)
        monkeypatch.setattr(follow, "stream_state", new.stream_state)
        monkeypatch.setattr(follow, "load_payload", load_payload)
        monkeypatch.setattr(follow, "newest", new.snapshot)
        monkeypatch.setattr(judge, "append", new.append)
        monkeypatch.setattr(record, "append", new.append)
        return new

    return made


def fill(streams: Streams) -> None:
    """Everything is admitted and played: what remains are the learner's decisions."""
    for number in range(GROUPS):
        name = f"g{number:08d}"
        task = pb.GroupTask(run=NAMES.run, group=name, kind=pb.TASK_KIND_TRAIN, group_size=SIZE)
        event = pb.LedgerEvent(group=name, admitted=pb.Admitted(group_size=SIZE))
        streams.put(NAMES.ledger, NAMES.ledger_group_subject(name), event.SerializeToString())
        for index in range(SIZE):
            t = sample(task, index, 1.0 if number == FILTERED else float(index))
            streams.put(NAMES.log, NAMES.log_subject(name, index), encode(t))


async def train(epoch: int, trained: int, given: list[list[str]], *, drop: bool) -> None:
    """A whole life of a learner whose checkpoint is of step `trained`: appends the batch of each step to `given`.

    drop: whether its recipe filters groups without signal. Raises Killed.
    """
    bus: Any = None
    sources = Sources({"": AdvantageSamples(recipe_of(algorithm={"filters": {"zero_variance": drop}}))})
    following = follow.Following(bus, NAMES, PER_STEP, trained, 0, TAKES)
    number = Epoch(Alone(bus, NAMES), epoch)
    judging = judge.Judge(bus, NAMES, following, sources, min_fraction=1.0, epoch=number)
    batches = record.Batches(bus, NAMES, following, judging, max_age=2, epoch=number, schedule=pb.Schedule())

    async def steps() -> None:
        for step in range(trained + 1, STEPS + 1):
            batch = await batches.batch(step, within=20)
            assert batch is not None, f"no batch of step {step}"
            given.append([g.name for g in batch])
            await batches.trained(step)

    tasks = [asyncio.ensure_future(work()) for work in (steps, judging.run, following.run)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def fold(streams: Streams) -> Ledger:
    ledger = Ledger()
    for entry in streams.entries[NAMES.ledger]:
        ledger.apply(entry.subject, entry.payload, entry.sequence)
    return ledger


KILLS = [*itertools.product(range(WRITES), (False, True)), (10**9, False)]
"""(write that a life does not survive, whether the stream has it all the same)."""


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize(("pull", "behind"), [(1, -1), (2, -1), (3, -1), (5, -1), (1, 0), (2, 2), (5, 1)])
async def test_the_batches_are_the_same_wherever_two_lives_are_killed(
    streams: Callable[[], Streams], pull: int, always: bool, behind: int
) -> None:
    """behind: how many entries the snapshot that a life begins with is behind, -1 for none. always: whether all lives
    filter; else the first does not, and the others must not judge what it trained."""
    for first, second in itertools.product(KILLS, KILLS):
        run, trained, lives = streams(), 0, list[tuple[int, list[list[str]]]]()
        fill(run)
        run.pull, run.behind = pull, behind
        for epoch, (left, stored) in enumerate((first, second, KILLS[-1]), 1):
            run.left, run.stored = left, stored
            lives.append((trained, given := list[list[str]]()))
            with contextlib.suppress(Killed):
                await train(epoch, trained, given, drop=always or epoch > 1)
            trained = max(0, trained + len(given) - epoch % 2)  # a checkpoint may be a step behind
        ledger = fold(run)
        assert ledger.step == STEPS and not ledger.quarantine.counts, (first, second)
        recorded = [[part.group for part in ledger.batches[step].groups] for step in range(1, STEPS + 1)]
        assert all(given == recorded[at : at + len(given)] for at, given in lives), (first, second)
        if always:
            assert recorded == [["g00000000", "g00000002"], ["g00000003", "g00000004"]]
            assert ledger.samples.filtered == SIZE and ledger.samples.in_flight == 0
