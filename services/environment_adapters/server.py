"""The service: environments and agents of other libraries by the recipe's names, each call in a worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from penstock.rpc import Security, Server
from penstock.sdk.environments import Host
from penstock.sdk.hosting.isolation import load_agent, load_environment
from penstock.sdk.hosting.trust import trusting
from penstock.sdk.hosting.worker_pool import MEMORY, Workers
from penstock.sdk.serving import add_services
from services.environment_adapters.adapting import Served


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    Attributes:
        served: what.
        workers: processes for environments, and as many for agents.
        memory: bytes of address space that each of them may take beyond its imports.
        lease_seconds: an episode that is not stepped for this long is closed.
        security: the service's own; agents believe its authority.
    """

    served: Sequence[Served]
    workers: int = 2
    memory: int = MEMORY
    lease_seconds: float = 120.0
    security: Security = field(default_factory=Security)


@asynccontextmanager
async def hosting(server: Server, settings: Settings) -> AsyncIterator[None]:
    """The service on a server that is started in the block; its open episodes are closed at the end.

    Raises ValueError for what a library does not have.
    """
    count, memory = settings.workers, settings.memory
    with trusting(settings.security) as trusted:
        async with (
            Workers(count, name="environment-worker", memory=memory) as for_environments,
            Workers(count, name="agent-worker", memory=memory, variables=trusted) as for_agents,
        ):
            turns = [each for each in settings.served if not each.adapter.agent]
            agents = [each for each in settings.served if each.adapter.agent]
            hosts: list[Host] = [
                await load_environment(for_environments, each.target, name=each.name) for each in turns
            ]
            players = [await load_agent(for_agents, each.target, name=each.name) for each in agents]
            episodes = add_services(server, [], hosts, players, lease_seconds=settings.lease_seconds)
            yield
            await episodes.close_all()
