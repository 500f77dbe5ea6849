"""Plays one sample of a task: an episode of its source, or a row of the data set tokenised.

Everything that an episode is driven with is opened here, once per worker process: engines and teacher for all sources,
rewards and environment for each.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.datasets import tokenise
from penstock.environment.v1 import environment_pb2_grpc
from penstock.recipes import Longest, Recipe
from penstock.recipes.sections import Environment
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.engines import Engines, engines
from services.rollout.episode import Place, Tools, play
from services.rollout.scoring import scoring
from services.rollout.teacher import Teacher, teacher


@dataclass(frozen=True)
class Addresses:
    """Where the other services are, as HOST:PORT; `rewards`, `judges`: those of models that score, by their reward's
    name."""

    generation: Sequence[str] = ()
    environment: Sequence[str] = ()
    teacher: Sequence[str] = ()
    rewards: Mapping[str, str] = field(default_factory=dict)
    judges: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Player:
    """Plays the samples of one run. `tools`: what episodes are driven with, by source."""

    def __init__(self, recipe: Recipe, chat: ChatTokenizer, tools: Mapping[str, Tools]) -> None:
        self._recipe, self._chat, self._tools = recipe, chat, tools
        self._longest = Longest.of(recipe, trained=True)

    async def play(self, task: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        """Sample `index`, ended before `until`, a time of time.monotonic(). Never raises for a failed sample."""
        if not task.HasField("rollout"):
            return tokenise(self._chat, self._recipe.model.path, task, index, self._longest, self._recipe.data.train_on)
        return await play(self._tools[task.rollout.task.source], task, index, until)


@asynccontextmanager
async def player(
    recipe: Recipe, chat: ChatTokenizer, addresses: Addresses, security: rpc.Security
) -> AsyncIterator[Player]:
    """A Player over open channels."""
    tools: dict[str, Tools] = {}
    async with AsyncExitStack() as stack:
        if recipe.generates:
            rollout = recipe.rollout
            pool = await stack.enter_async_context(
                engines(addresses.generation, security, rollout.attempts, rollout.generation_timeout_seconds)
            )
            tutor = None
            if addresses.teacher:
                assert recipe.teacher is not None
                tutor = await stack.enter_async_context(teacher(addresses.teacher, security, recipe.teacher.top))
            for name, source in recipe.sources.items():
                tools[name] = await _tools(stack, source, chat, addresses, security, pool, tutor)
        yield Player(recipe, chat, tools)


async def _tools(
    stack: AsyncExitStack,
    recipe: Recipe,
    chat: ChatTokenizer,
    addresses: Addresses,
    security: rpc.Security,
    pool: Engines,
    tutor: Teacher | None,
) -> Tools:
    """What drives the episodes of one source of tasks."""
    assert recipe.environment is not None, "a recipe that generates has an environment"
    rewards = await stack.enter_async_context(
        scoring(
            recipe.rewards(),
            addresses.environment,
            security,
            addresses.rewards,
            addresses.judges,
            recipe.limits.outage_seconds,
        )
    )
    places = await _places(stack, recipe.environment, addresses, security) if recipe.environment.multi_turn else ()
    trained, measured = (Longest.of(recipe, trained=each) for each in (recipe.mode != "evaluate", False))
    outage = 0.0 if recipe.environment.address is None else recipe.limits.outage_seconds
    return Tools(recipe.model.path, chat, pool, rewards, recipe.environment, trained, measured, places, tutor, outage)


async def _places(
    stack: AsyncExitStack, environment: Environment, addresses: Addresses, security: rpc.Security
) -> Sequence[Place]:
    """Where episodes of a source are played: another team's service, or all replicas of ours."""
    shown, transport = security, None
    if environment.address:
        shown, transport = rpc.Security.of_files(**environment.credentials.model_dump()), rpc.FOREIGN
    places = []
    for address in [environment.address] if environment.address else addresses.environment:
        opened = rpc.channel(
            address, security=shown, transport=transport, idempotent=["penstock.environment.v1.EnvironmentService"]
        )
        stub = environment_pb2_grpc.EnvironmentServiceStub(await stack.enter_async_context(opened))
        places.append(Place(address, stub))
    return places
