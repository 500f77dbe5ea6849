"""What an episode is played with: real environments over gRPC, a fake engine, one task."""

import contextlib
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message, SamplingParams
from penstock.environment.v1 import environment_pb2_grpc
from penstock.recipes import Longest
from penstock.recipes.sections import Environment, Reward
from penstock.replicas import engines as engines_module
from penstock.replicas.engines import engines
from penstock.replicas.pool import Pool
from penstock.sdk import Environment as SdkEnvironment
from penstock.sdk import Invalid, Sample, Turn, reward
from penstock.sdk import Message as SdkMessage
from penstock.sdk.environments import InProcess
from penstock.sdk.serving import add_services
from penstock.testing.fake_engine import FakeEngine, serving
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.environment.builtin.guess_number import GuessNumber
from services.rollout.scoring import scoring
from services.rollout.tools import Place, Tools

COMPLETED, TRUNCATED, FAILED = (
    pb.Outcome.STATUS_COMPLETED,
    pb.Outcome.STATUS_TRUNCATED,
    pb.Outcome.STATUS_FAILED,
)
ROOMY = Longest(2048, "generation.max_context", cut=False)
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


@reward
def brevity(sample: Sample) -> float | Invalid:
    """1 for a word that stopped; an "x" cannot be judged."""
    return Invalid("an x cannot be judged") if sample.completion == "x" else float(sample.finish_reason == "stop")


class Silent(SdkEnvironment):
    """Says nothing of a reward and never ends."""

    def reset(self, row: object, seed: int) -> list[SdkMessage]:
        return [SdkMessage("user", "0")]

    def step(self, action: SdkMessage, finish_reason: str) -> Turn:
        return Turn([SdkMessage("user", "0")])


class Broken(SdkEnvironment):
    """Raises in its second turn."""

    summary = "raises"
    max_turns = 4

    def reset(self, row: object, seed: int) -> list[SdkMessage]:
        self.turns = 0
        return [SdkMessage("user", "go")]

    def step(self, action: SdkMessage, finish_reason: str) -> Turn:
        self.turns += 1
        if self.turns > 1:
            raise RuntimeError("the simulator fell over")
        return Turn([SdkMessage("user", "on")])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "AVOID_SECONDS", 0.05)


@pytest_asyncio.fixture
async def environment_address(quick: None) -> AsyncIterator[str]:
    async with rpc.Server("environment") as server:
        hosts = [InProcess(GuessNumber, "guess_number"), InProcess(Broken, "broken"), InProcess(Silent, "silent")]
        episodes = add_services(server, [brevity], hosts)
        await server.start()
        yield server.address
        await episodes.close_all()


@contextlib.asynccontextmanager
async def tools(
    chat: ChatTokenizer,
    fake: FakeEngine,
    environment_address: str,
    *,
    environment: str = "",
    attempts: int = 2,
    longest: Longest = ROOMY,
    outage: float = 0.0,
) -> AsyncIterator[Tools]:
    """What an episode is driven with; `environment` makes it a multi-turn one."""
    settings = Environment(name=environment or "brevity", multi_turn=bool(environment), max_turns=8)
    async with (
        serving(fake) as addresses,
        engines(addresses, rpc.Security(), attempts, 5.0) as pool,
        scoring([Reward(name="brevity")], [environment_address], rpc.Security()) as scorer,
        rpc.channel(environment_address) as channel,
    ):
        place = Place(environment_address, environment_pb2_grpc.EnvironmentServiceStub(channel))
        yield Tools("model", chat, pool, scorer, settings, longest, longest, Pool([place]), None, outage)


def task(environment: str = "brevity", *, row: str = "{}", max_tokens: int = 24) -> pb.GroupTask:
    made = pb.GroupTask(run="r1", group="g00000000", kind=pb.TASK_KIND_TRAIN, group_size=4, seed=40)
    made.rollout.task.id = "train/0"
    made.rollout.task.environment = environment
    made.rollout.task.row_json = row
    if environment == "brevity":
        made.rollout.task.messages.add(role="user", content="cab")
    made.rollout.sampling.CopyFrom(SamplingParams(temperature=1, top_p=1, max_tokens=max_tokens))
    made.rollout.min_step = 3
    return made


def encoded(chat: ChatTokenizer, text: str) -> list[int]:
    """Text as the model would draw it, with its stop token."""
    whole = chat.render([Message(role="user", content="a"), Message(role="assistant", content=text)], generate=False)
    return whole[len(chat.render([Message(role="user", content="a")])) :]


def soon() -> float:
    return time.monotonic() + 20


def trained(t: pb.Trajectory) -> list[int]:
    mask = np.frombuffer(t.loss_mask, np.uint8) == 1
    return [int(x) for x in from_int32s(t.tokens)[mask]]
