"""The environment service: rewards, environments and agents by name, each call in a worker process.

Each kind has workers of its own: a reward that is killed for hanging takes no episode with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from penstock.packages import hosted
from penstock.rpc import Security, Server
from penstock.sdk.environments import Host
from penstock.sdk.hosting.isolation import load_agent, load_environment, load_reward
from penstock.sdk.hosting.trust import trusting
from penstock.sdk.hosting.worker_pool import MEMORY, Workers
from penstock.sdk.rewards import Scorer
from penstock.sdk.serving import add_services


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    Attributes:
        workers: processes for rewards, as many for environments, and as many for agents.
        memory: bytes of address space that each of them may take beyond its imports; 0 for any number.
        lease_seconds: an episode that is not stepped for this long is closed.
        rewards, environments, agents: name -> `module:object` that are served.
    """

    listen: str = "127.0.0.1:0"
    name: str = "environment"
    workers: int = 2
    memory: int = MEMORY
    lease_seconds: float = 120.0
    reflection: bool = False
    security: Security = field(default_factory=Security)
    rewards: Mapping[str, str] = field(default_factory=hosted.rewards)
    environments: Mapping[str, str] = field(default_factory=hosted.environments)
    agents: Mapping[str, str] = field(default_factory=hosted.agents)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """The started server, for the block.

    Raises:
        AddressInUse: the port is taken.
        ValueError: a reward or environment cannot be imported.
    """
    made = Server(settings.name, settings.listen, security=settings.security, reflection=settings.reflection)
    async with made as server, hosting(server, settings):
        await server.start()
        yield server


@asynccontextmanager
async def hosting(server: Server, settings: Settings) -> AsyncIterator[None]:
    """The service on a server that is started in the block; its open episodes are closed at the end.

    Raises ValueError as `running`.
    """
    count, memory = settings.workers, settings.memory
    with trusting(settings.security) as trusted:
        async with (
            Workers(count, name="reward-worker", memory=memory) as for_rewards,
            Workers(count, name="environment-worker", memory=memory) as for_environments,
            Workers(count, name="agent-worker", memory=memory, variables=trusted) as for_agents,
        ):
            scorers: list[Scorer] = [
                await load_reward(for_rewards, target, name=name) for name, target in settings.rewards.items()
            ]
            hosts: list[Host] = [
                await load_environment(for_environments, target, name=name)
                for name, target in settings.environments.items()
            ]
            agents = [await load_agent(for_agents, target, name=name) for name, target in settings.agents.items()]
            episodes = add_services(server, scorers, hosts, agents, lease_seconds=settings.lease_seconds)
            yield
            await episodes.close_all()
