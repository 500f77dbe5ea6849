"""The service: environments and agents of other libraries by the recipe's names, each call in a worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from penstock.rpc import Server
from penstock.sdk.environments import Host
from penstock.sdk.hosting.isolation import load_agent, load_environment
from penstock.sdk.hosting.worker_pool import MEMORY, Workers
from penstock.sdk.serving import add_services
from services.environment_adapters.adapting import Served


@dataclass(frozen=True)
class Settings:
    """How the service runs. served: what; workers: processes for environments, and as many for agents; memory: bytes of
    address space that each of them may take beyond its imports; lease_seconds: of an episode that is not stepped."""

    served: Sequence[Served]
    workers: int = 2
    memory: int = MEMORY
    lease_seconds: float = 120.0


@asynccontextmanager
async def hosting(server: Server, settings: Settings) -> AsyncIterator[None]:
    """The service on a server that is started in the block; its open episodes are closed at the end.

    Raises ValueError for what a library does not have.
    """
    async with (
        Workers(settings.workers, name="environment-worker", memory=settings.memory) as for_environments,
        Workers(settings.workers, name="agent-worker", memory=settings.memory) as for_agents,
    ):
        turns = [each for each in settings.served if not each.adapter.agent]
        agents = [each for each in settings.served if each.adapter.agent]
        hosts: list[Host] = [await load_environment(for_environments, each.target, name=each.name) for each in turns]
        players = [await load_agent(for_agents, each.target, name=each.name) for each in agents]
        episodes = add_services(server, [], hosts, players, lease_seconds=settings.lease_seconds)
        yield
        await episodes.close_all()
