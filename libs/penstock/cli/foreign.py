"""Other teams' services, called once before a run starts: is somebody there, do they take our credential, and do they
serve what the recipe names?

`Score` alone is the contract: a service that describes itself not at all, or by a status of its own, is fine.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc

from penstock import rpc
from penstock.environment.v1 import environment_pb2, environment_pb2_grpc
from penstock.recipes import Recipe
from penstock.recipes.sections import Credentials
from penstock.reward.v1 import reward_pb2, reward_pb2_grpc

SECONDS = 2.0
"""Of each of the two looks at a service: a name and a port, then gRPC."""
NOT_TAKEN = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
Names = Callable[[grpc.aio.Channel], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Foreign:
    """A service that the recipe names. key: where; name: what is wanted of it; names: asks what it serves."""

    key: str
    address: str
    name: str
    credentials: Credentials
    names: Names


async def unreachable(recipe: Recipe) -> list[str]:
    """A sentence for each foreign service that could not be used, within a few seconds for all of them."""
    found = await asyncio.gather(*(_problem(each) for each in _foreign(recipe)))
    return list(dict.fromkeys(problem for problem in found if problem))


def _foreign(recipe: Recipe) -> Iterator[Foreign]:
    for environment in recipe.environments if recipe.generates else ():
        if environment.plays and environment.address is not None:
            names = _agents if environment.agent else _environments
            yield Foreign("environment", environment.address, environment.name, environment.credentials, names)
        for i, reward in enumerate(environment.rewards):
            if reward.address is not None:
                key = f"environment.rewards[{i}]"
                yield Foreign(key, reward.address, reward.name, reward.credentials, _rewards)


async def _rewards(channel: grpc.aio.Channel) -> Sequence[str]:
    stub = reward_pb2_grpc.RewardServiceStub(channel)
    answer = await rpc.call(stub.Describe(reward_pb2.DescribeRequest(), timeout=SECONDS))
    return [each.name for each in answer.rewards]


async def _environments(channel: grpc.aio.Channel) -> Sequence[str]:
    stub = environment_pb2_grpc.EnvironmentServiceStub(channel)
    answer = await rpc.call(stub.ListEnvironments(environment_pb2.ListEnvironmentsRequest(), timeout=SECONDS))
    return [each.name for each in answer.environments]


async def _agents(channel: grpc.aio.Channel) -> Sequence[str]:
    stub = environment_pb2_grpc.AgentServiceStub(channel)
    answer = await rpc.call(stub.ListAgents(environment_pb2.ListAgentsRequest(), timeout=SECONDS))
    return [each.name for each in answer.agents]


async def _problem(service: Foreign) -> str:
    """Why the service could not be used; empty if it could, as far as one can see."""
    where = f"{service.key}.address: {service.address}"
    try:
        security = rpc.Security.of_files(**service.credentials.model_dump())
    except (OSError, ValueError) as error:
        return f"{service.key}.credentials: {error}"
    if why := await _no_port(service.address):
        return f"{where} {why}"
    async with rpc.channel(service.address, security=security, transport=rpc.FOREIGN) as channel:
        try:
            await rpc.ready(channel, service.address, within=SECONDS)
        except rpc.RpcError:
            if security.tls:
                return f"{where} speaks no TLS, or with a certificate that credentials.authority did not sign"
            return f"{where} is no gRPC server, or wants TLS (credentials.authority)"
        try:
            served = await service.names(channel)
        except rpc.RpcError as error:
            if error.code in NOT_TAKEN:
                return f"{service.key}.credentials: {service.address} does not take them: {error}"
            return ""  # it does not describe itself, or by a status of its own
    if served and service.name not in served:
        return f"{service.key}.name: {service.address} serves {', '.join(served)}, not {service.name!r}"
    return ""


async def _no_port(address: str) -> str:
    """Why nobody can be connected to; empty where somebody can, or the address is more than a host and a port."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host or host.startswith("unix"):
        return ""
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
    except socket.gaierror:
        return f"names no host: {host!r} is unknown"
    except ConnectionRefusedError:
        return "is refused: nothing listens there"
    except TimeoutError:
        return f"does not answer within {SECONDS:g} s"
    except (OSError, OverflowError) as error:
        return f"cannot be reached: {error}"
    return ""
