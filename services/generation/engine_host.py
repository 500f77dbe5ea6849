"""Keeps one engine alive and at the version that weight_sync tells it: the newest promoted one.

    STARTING -> READY <-> UPDATING        an engine's life
        ^----- DEAD <-----------'         its process died: a new one is started at that version

Two tasks: `follow` hears of versions from weight_sync, `keep` starts, updates and restarts the engine. A version that
cannot be applied leaves the weights undefined, so the engine is replaced rather than trusted.
"""

import asyncio
import functools
import logging
import pathlib
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

import grpc

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.fetching import AnotherModel, Bulk, FetchFailed, Hands, Relays, told_of
from penstock.generation.v1.generation_pb2 import GetEngineResponse
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress, waiting
from penstock.tensors import base_model
from penstock.trajectories.routes import RouteShape
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.generation.engine import Chunk, Engine, EngineDied, EngineSettings, Judgement
from services.generation.gate import Gate

logger = logging.getLogger(__name__)
State = GetEngineResponse.State

HEALTH_SECONDS = 0.5
RETRY_SECONDS = 1.0
START_SECONDS = 86400.0
"""Within which a process has an engine, or is of no use; one attempt to start it has its own bound."""
_pause = metrics.histogram(metrics.PAUSE_SECONDS, "seconds without a token during a weight update")
_running = metrics.gauge(metrics.REQUESTS_RUNNING, "requests in the engine, as looked at twice a second")
_tokens = metrics.counter(metrics.TOKENS_GENERATED, "tokens drawn")

StartEngine = Callable[[EngineSettings, PolicyVersion], Awaitable[Engine]]
Serves = Callable[[int], Awaitable[None]]
"""Told the step of a version when the engine begins to serve it."""


async def _nobody(step: int) -> None:
    """Tells nobody."""


class EngineHost:
    """The engine of one service process.

    Invariants (test names): requests only ever run on a version that was applied completely; one that starts without
    weights serves nothing before it has fetched a version.

    serves: told of every version that it begins to serve.
    """

    def __init__(self, settings: EngineSettings, receiver: str, start: StartEngine = Engine.start) -> None:
        self.settings = settings
        self.serves: Serves = _nobody
        self.gate = Gate()
        self.state: State = State.STATE_STARTING
        self.engine_starts = 0
        self.tokens_generated = 0
        self._receiver, self._start = receiver, start
        self._engine: Engine | None = None
        self._target: PolicyVersion | None = None
        self._taken_back: PolicyVersion | None = None  # what must not be drawn with any more
        self._wake = asyncio.Event()
        self._digest = functools.cache(functools.partial(base_model, settings.model))

    @property
    def version(self) -> PolicyVersion:
        """The version the engine holds; version 0 while there is none."""
        return self._engine.version if self._engine is not None else PolicyVersion()

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return self._engine.running() if self._engine is not None and self._engine.alive else 0

    @property
    def routes(self) -> RouteShape | None:
        """What the engine records of routes, if it does."""
        return self._engine.routes if self._engine is not None else None

    async def ready(self) -> None:
        """Waits, listed, until the engine has begun to serve a version."""
        async with self.gate.passing(0, None, START_SECONDS):
            return

    async def run(
        self, channel: grpc.aio.Channel | None, bulk: Bulk | None = None, relays: Relays | None = None
    ) -> None:
        """Runs until cancelled. Without a channel to weight_sync the model stays as it was loaded. bulk: its socket for
        whole versions. relays: who may have them nearer."""
        async with asyncio.TaskGroup() as tasks:
            if channel is not None:
                tasks.create_task(self.follow(channel))
            tasks.create_task(self.keep(channel, bulk, relays))

    async def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        steady: bool = False,
        routes_from: int | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Draws one completion on the engine. Raises EngineDied."""
        engine = self._engine
        if engine is None:
            raise EngineDied("the engine is starting")
        try:
            drawn = engine.generate(request_id, prompt, sampling, steady, routes_from)
            async with aclosing(drawn) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    self.tokens_generated += len(chunk.tokens)
                    _tokens.inc(len(chunk.tokens))
                    yield chunk
        except EngineDied:
            self._wake.set()
            raise
        progress()

    async def score(self, request_id: str, tokens: Sequence[int], first: int, top: int) -> Judgement:
        """Scores given tokens on the engine. Raises EngineDied."""
        engine = self._engine
        if engine is None:
            raise EngineDied("the engine is starting")
        try:
            scored = await engine.score(request_id, tokens, first, top)
        except EngineDied:
            self._wake.set()
            raise
        progress()
        return scored

    async def follow(self, channel: grpc.aio.Channel) -> None:
        """Hears of versions for ever; a lost stream is asked for again."""
        async for told in told_of(channel, self._watching, RETRY_SECONDS):
            if told.taken_back:
                self._taken_back = self._told()
            if told.version == self._taken_back:
                self._taken_back = None  # it was promoted again
            self._target = told.version
            self._wake.set()

    def _watching(self) -> pb.WatchVersionsRequest:
        return pb.WatchVersionsRequest(receiver=self._receiver, held=self._told())

    def _told(self) -> PolicyVersion | None:
        """The version that it is about to have, or has: what weight_sync need not tell it again."""
        held = self._engine.version if self._engine is not None and self._engine.version.epoch else None
        return self._target or held

    def _base_model(self) -> bytes:
        """Of what adapters are merged into. Raises AnotherModel where there is nothing of it, OSError, ValueError."""
        if not self.settings.weights:
            raise AnotherModel(
                f"the run publishes adapters alone, and {self.settings.model} has no weights that they could be merged "
                "into: give this host the weights of the run's model, or set learner.lora.publish: merged in the recipe"
            )
        return self._digest()

    async def keep(
        self, channel: grpc.aio.Channel | None, bulk: Bulk | None = None, relays: Relays | None = None
    ) -> None:
        """Keeps the engine alive and at the target version for ever."""
        with tempfile.TemporaryDirectory(prefix="penstock-weights-", dir=_memory_folder()) as folder:
            hands = Hands.here(pathlib.Path(folder), bulk)
            async with AsyncExitStack() as stack:
                stack.callback(hands.release)
                stack.callback(self._stop)
                while True:
                    try:
                        if self._engine is None or not self._engine.alive:
                            await self._replace()
                        if channel is not None and self._elsewhere():
                            await self._update(channel, hands, relays)
                    except EngineDied as error:
                        logger.error("the engine died: %s", error)
                        continue
                    except FetchFailed as error:
                        logger.warning("%s", error)
                        with waiting(f"a version that can be had: {error}", on="weight_sync", deadline=RETRY_SECONDS):
                            await asyncio.sleep(RETRY_SECONDS)
                        continue
                    await self._until_woken()

    def _elsewhere(self) -> bool:
        """Whether the engine is to hold another version: a newer one, or an older one after a rollback."""
        target, held = self._target, self.version
        return target is not None and (target.step, target.epoch) != (held.step, held.epoch)

    async def _replace(self) -> None:
        await self.gate.close()
        self.state = State.STATE_STARTING if self._engine is None else State.STATE_DEAD
        self._stop()
        started = time.monotonic()
        with waiting("the engine to start", on="vllm", deadline=600):
            self._engine = await self._start(self.settings, PolicyVersion())
        self.engine_starts += 1
        logger.info("engine started in %.1f s", time.monotonic() - started, extra={"starts": self.engine_starts})
        if self.settings.weights and not self._elsewhere():
            self.state = State.STATE_READY
            await self._open()

    async def _open(self) -> None:
        await self.gate.open(self.version.step)
        logger.info("version %d is served", self.version.step)
        await self.serves(self.version.step)

    async def _update(self, channel: grpc.aio.Channel, hands: Hands, relays: Relays | None) -> None:
        assert self._engine is not None and self._target is not None
        target = self._target
        began = time.monotonic()
        try:
            held = await relays.take(hands, target, self._base_model) if relays is not None else None
            held = held or await hands.take(channel, target, self._base_model)
        except FetchFailed as error:
            if not isinstance(error.__cause__, rpc.RpcError):  # the version's fault, not the network's
                report = pb.ReportAppliedRequest(receiver=self._receiver, version=target, error=str(error)[:1000])
                await self._report(channel, report)
            raise
        if target != self._target:
            return  # another one is wanted meanwhile: this one may be rejected
        transfer = time.monotonic() - began
        back = target.step < self.version.step or self.version == self._taken_back
        await self.gate.close_unpinned(taken_back=back)
        self.state = State.STATE_UPDATING
        report = pb.ReportAppliedRequest(
            receiver=self._receiver,
            version=held.manifest.version,
            path=held.way,
            bytes=held.crossed,
            relay=held.relay,
        )
        try:
            pause = await self._engine.update(held.manifest, held.file)
        except EngineDied:
            raise
        except Exception as error:
            # Whatever went wrong, half of the weights may be new: this engine must not draw another token.
            report.error = f"{type(error).__name__}: {error}"[:1000]
            logger.exception("version %d could not be applied; the engine is replaced", target.step)
            await self._report(channel, report)
            self._stop()
            raise EngineDied(report.error) from error
        _pause.observe(pause)
        self.state = State.STATE_READY
        await self._open()
        report.pause.FromNanoseconds(int(pause * 1e9))
        report.transfer.FromNanoseconds(int(transfer * 1e9))
        await self._report(channel, report)
        progress()

    async def _report(self, channel: grpc.aio.Channel, report: pb.ReportAppliedRequest) -> None:
        try:
            await rpc.call(weights_pb2_grpc.WeightSyncServiceStub(channel).ReportApplied(report, timeout=10))
        except rpc.RpcError as error:
            logger.warning("cannot report version %d: %s", report.version.step, error)

    async def _until_woken(self) -> None:
        """Until a version is announced, a request found the engine dead, or it is time to look at its health."""
        _running.set(self.running)
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None


def _memory_folder() -> str | None:
    """A folder in memory where there is one."""
    return "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
