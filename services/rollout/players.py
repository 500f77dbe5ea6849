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
from penstock.membership import Watcher
from penstock.recipes import Longest, Recipe
from penstock.recipes.sections import Environment
from penstock.replicas.engines import Engines, engines
from penstock.replicas.pool import Members, Pool, Where, pool
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.agents import gateways_of
from services.rollout.episode import play
from services.rollout.frozen import breath_of
from services.rollout.scoring import scoring
from services.rollout.teacher import Teacher, teacher
from services.rollout.tools import Gate, Place, Tools


@dataclass(frozen=True)
class Addresses:
    """Where the other services are, as HOST:PORT, for those who are not found in the run; `rewards`, `judges`: those of
    models that score, by their reward's name."""

    generation: Sequence[str] = ()
    environment: Sequence[str] = ()
    gateway: Sequence[str] = ()
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


class _Found:
    """Where each kind is: at the addresses that were told, else where the run's members are."""

    def __init__(self, addresses: Addresses, watcher: Watcher | None, zone: str) -> None:
        self._addresses, self._watcher, self._zone = addresses, watcher, zone
        self.generation = self._where("generation", addresses.generation)
        self.environment = self._where("environment", addresses.environment)
        self.adapters = self._where("adapters", addresses.environment)
        self.gateway = self._where("gateway", addresses.gateway)
        self.teacher = self._where("teacher", addresses.teacher)

    def reward(self, name: str) -> Where:
        """The models that give a reward."""
        told = self._addresses.rewards.get(name)
        return self._where("reward_model", [told] if told else [], name)

    def judge(self, name: str) -> Where:
        """The engines of a judge."""
        return self._where("judge", self._addresses.judges.get(name, ()), name)

    def _where(self, kind: str, told: Sequence[str], serves: str = "") -> Where:
        return told if told or self._watcher is None else Members(self._watcher, kind, serves, self._zone)


@asynccontextmanager
async def player(
    recipe: Recipe,
    chat: ChatTokenizer,
    addresses: Addresses,
    security: rpc.Security,
    watcher: Watcher | None = None,
    zone: str = "",
) -> AsyncIterator[Player]:
    """A Player over open channels. watcher: of the run, for those whose addresses are not told; zone: what is near."""
    found = _Found(addresses, watcher, zone)
    tools: dict[str, Tools] = {}
    async with AsyncExitStack() as stack:
        if recipe.generates:
            rollout = recipe.rollout
            replicas = await stack.enter_async_context(
                engines(found.generation, security, rollout.attempts, rollout.generation_timeout_seconds)
            )
            tutor = None
            if recipe.teacher is not None and recipe.mode == "train":
                tutor = await stack.enter_async_context(teacher(found.teacher, security, recipe.teacher.top))
            for name, source in recipe.sources.items():
                tools[name] = await _tools(stack, source, chat, found, security, replicas, tutor)
        yield Player(recipe, chat, tools)


async def _tools(
    stack: AsyncExitStack,
    recipe: Recipe,
    chat: ChatTokenizer,
    found: _Found,
    security: rpc.Security,
    replicas: Engines,
    tutor: Teacher | None,
) -> Tools:
    """What drives the episodes of one source of tasks."""
    assert recipe.environment is not None, "a recipe that generates has an environment"
    rewards = await stack.enter_async_context(
        scoring(
            recipe.rewards(),
            found.environment,
            security,
            {name: found.reward(name) for name in recipe.reward_models},
            {name: found.judge(name) for name in recipe.judges},
            recipe.limits.outage_seconds,
            recipe.limits.group_deadline_seconds,
        )
    )
    places = Pool[Place]()
    gates = Pool[Gate]()
    if recipe.environment.agent:
        gates = await stack.enter_async_context(gateways_of(found.gateway, security))
    if recipe.environment.plays:
        places = await _places(stack, recipe.environment, found, security)
    trained, measured = (Longest.of(recipe, trained=each) for each in (recipe.mode != "evaluate", False))
    outage = 0.0 if recipe.environment.address is None else recipe.limits.outage_seconds
    own, model = recipe.environment, recipe.model.path
    most, routes = recipe.rollout.max_branches, bool(recipe.learner.routing_replay)
    return Tools(model, chat, replicas, rewards, own, trained, measured, places, tutor, outage, gates, most, routes)


async def _places(
    stack: AsyncExitStack, environment: Environment, found: _Found, security: rpc.Security
) -> Pool[Place]:
    """Where episodes of a source are played: another team's service, or all replicas of ours."""
    shown, transport = security, None
    if environment.address:
        shown, transport = rpc.Security.of_files(**environment.credentials.model_dump()), rpc.FOREIGN

    @asynccontextmanager
    async def opened(address: str) -> AsyncIterator[Place]:
        idempotent = ["penstock.environment.v1.EnvironmentService"]
        async with rpc.channel(address, security=shown, transport=transport, idempotent=idempotent) as channel:
            breathes = breath_of(address, shown) if environment.address else None
            episodes = environment_pb2_grpc.EnvironmentServiceStub(channel)
            yield Place(address, episodes, environment_pb2_grpc.AgentServiceStub(channel), breathes)

    ours = found.environment if environment.adapter is None else found.adapters
    where = [environment.address] if environment.address else ours
    return await stack.enter_async_context(pool(where, opened))
