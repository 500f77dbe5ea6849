"""`serve(my_reward)`: a reward or environment service in five lines.

from penstock.sdk import Sample, reward, serve

@reward
def brevity(sample: Sample) -> float:
    return 1.0 / (1 + len(sample.completion))

serve(brevity, listen="0.0.0.0:7000")
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from penstock.environment.v1 import environment_pb2_grpc
from penstock.reward.v1 import reward_pb2_grpc
from penstock.rpc import Security, Server
from penstock.sdk.agents import Agent, AgentHost
from penstock.sdk.environments import Environment, Host, InProcess
from penstock.sdk.hosting.agent_service import AgentService
from penstock.sdk.hosting.environment_service import EnvironmentService
from penstock.sdk.hosting.reward_service import RewardService
from penstock.sdk.rewards import Reward, Scorer
from penstock.telemetry import logs


def add_services(
    server: Server,
    scorers: Sequence[Scorer],
    hosts: Sequence[Host],
    agents: Sequence[AgentHost] = (),
    *,
    lease_seconds: float = 120.0,
) -> EnvironmentService:
    """Adds the services to a server; returns the one that has episodes to close at the end."""
    environments = EnvironmentService(hosts, lease_seconds=lease_seconds)
    server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, RewardService(scorers))
    server.add(environment_pb2_grpc.add_EnvironmentServiceServicer_to_server, environments)
    server.add(environment_pb2_grpc.add_AgentServiceServicer_to_server, AgentService(agents))
    return environments


Served = Reward | Agent | type[Environment]


def serve(
    *served: Served,
    listen: str = "127.0.0.1:7000",
    security: Security | None = None,
    reflection: bool = True,
    announce: Path | None = None,
) -> None:
    """Serves rewards, environments and agents from this process until SIGTERM or Ctrl-C.

    Args:
        served: functions decorated with `@reward` or `@agent`, and subclasses of `Environment`.
        listen: `host:port`; port 0 takes a free one.
        announce: file that gets the bound address.

    Raises:
        AddressInUse: the port is taken.
        ValueError: two have the same name, or there is nothing to serve.
    """
    logs.configure("reward")
    asyncio.run(_serve(served, listen, security, reflection, announce))


async def _serve(
    served: Sequence[Served],
    listen: str,
    security: Security | None,
    reflection: bool,
    announce: Path | None,
) -> None:
    scorers = [each for each in served if isinstance(each, Reward)]
    agents = [each for each in served if isinstance(each, Agent)]
    hosts = [InProcess(each, each.__name__) for each in served if not isinstance(each, Reward | Agent)]
    names = [*(each.name for each in scorers), *(each.name for each in agents), *(each.name for each in hosts)]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"serve at least one reward, environment or agent, each by its own name; got {names}")
    async with Server("reward", listen, security=security, reflection=reflection) as server:
        environments = add_services(server, scorers, hosts, agents)
        await server.start()
        if announce is not None:
            server.announce(announce)
        await server.wait()
        await environments.close_all()
