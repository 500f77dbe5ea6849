"""Whatever happens in whatever order, over a real NATS: every step has one batch, and the accounting holds.

Hypothesis chooses who acts next: admissions, samples (also twice, and as garbage), learners that are killed and begun
again at an older checkpoint with another size of pull, and snapshots of the ledger taken in between.
"""

import asyncio
import pathlib
import tempfile
from contextlib import AsyncExitStack

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from penstock.audit import read_run
from penstock.bus import Bus, EmbeddedServer, append, connect, ensure_run, publish_once, read, reading
from penstock.ledger import Ledger
from penstock.snapshots import store
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.leader.record import Batches
from services.learner.leader.run_testing import NAMES, SIZE, admit, leader, publish, sample

MOST_GROUPS = 10


class Run(RuleBasedStateMachine):
    """A run and one learner at a time. `given`: by step, the groups that learners were given."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.open, self.life = AsyncExitStack(), AsyncExitStack()
        self.pull, self.epoch, self.step, self.garbage = reading.BATCH, 0, 0, 0
        self.tasks: list[pb.GroupTask] = []
        self.missing: list[tuple[int, int]] = []
        self.given: dict[int, list[str]] = {}
        self.loop.run(self._open())

    async def _open(self) -> None:
        folder = pathlib.Path(self.open.enter_context(tempfile.TemporaryDirectory()))
        server = await self.open.enter_async_context(EmbeddedServer(folder / "nats", folder / "nats.log"))
        connecting = connect(server.url, name="test", monitor_url=server.monitor_url)
        self.bus: Bus = await self.open.enter_async_context(connecting)
        await ensure_run(self.bus, NAMES)

    @initialize()
    def first(self) -> None:
        self.begin(pull=1, back=0)

    @precondition(lambda self: len(self.tasks) < MOST_GROUPS)
    @rule()
    def admit(self) -> None:
        self.missing += [(len(self.tasks), index) for index in range(SIZE)]
        self.tasks.append(self.loop.run(admit(self.bus, len(self.tasks))))

    @precondition(lambda self: self.missing)
    @rule(data=st.data(), reward=st.sampled_from([0.0, 1.0]), again=st.booleans())
    def play(self, data: st.DataObject, reward: float, again: bool) -> None:
        """Any sample that is missing ends; `again`: it may end a second time."""
        at = data.draw(st.integers(0, len(self.missing) - 1))
        number, index = self.missing[at] if again else self.missing.pop(at)
        self.loop.run(publish(self.bus, sample(self.tasks[number], index, reward)))

    @rule(into=st.sampled_from(["ledger", "log"]))
    def write_garbage(self, into: str) -> None:
        self.garbage += 1
        if into == "log":
            self.loop.run(publish_once(self.bus, NAMES.log_subject(f"x{self.garbage}", 0), b"\xff"))
        else:
            subject = NAMES.ledger_batch_subject(self.step + 1)
            self.loop.run(append(self.bus, subject, b"\xff", expected_last_sequence=None))

    @rule(pull=st.integers(1, 8), back=st.integers(0, 3))
    def begin(self, pull: int, back: int) -> None:
        """The learner is killed, and begins again `back` steps behind, pulling so many entries at a time."""
        reading.BATCH = pull
        self.epoch, self.step = self.epoch + 1, max(0, self.step - back)
        self.loop.run(self._begin())

    async def _begin(self) -> None:
        await self.life.aclose()
        begun = leader(self.bus, epoch=self.epoch, trained_step=self.step, drop=True)
        self.batches: Batches = await self.life.enter_async_context(begun)

    @rule(steps=st.integers(1, 3))
    def train(self, steps: int) -> None:
        for _ in range(steps):
            batch = self.loop.run(self.batches.batch(self.step + 1, within=0.5))
            if batch is None:
                return
            self.step += 1
            names = [group.name for group in batch]
            assert self.given.setdefault(self.step, names) == names, "a step has one batch"
            self.loop.run(self.batches.trained(self.step))

    @rule(back=st.integers(0, 2))
    def keep_a_snapshot(self, back: int) -> None:
        """As the coordinator does, which knows of a checkpoint some steps behind."""
        self.loop.run(self._keep(back))

    async def _keep(self, back: int) -> None:
        ledger = await self._fold()
        ledger.forget(self.step - back)
        assert await store(self.bus, NAMES, ledger, {})

    async def _fold(self) -> Ledger:
        ledger = Ledger()
        async for entry in read(self.bus, NAMES.ledger, live=False):
            ledger.apply(entry.subject, entry.payload, entry.sequence)
        return ledger

    def teardown(self) -> None:
        try:
            self.loop.run(self._check())
        finally:
            reading.BATCH = self.pull
            self.loop.run(self.open.aclose())
            self.loop.close()

    async def _check(self) -> None:
        await self.life.aclose()
        ledger = await self._fold()
        recorded = {step: [part.group for part in record.groups] for step, record in ledger.batches.items()}
        assert {step: recorded.get(step) for step in self.given} == self.given
        _, verdict = await read_run(self.bus, NAMES, max_versions=100)
        assert not verdict.findings, verdict.findings


TestRun = Run.TestCase
TestRun.settings = settings(
    max_examples=8, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
