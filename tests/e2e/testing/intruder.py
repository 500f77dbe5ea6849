"""What another user of the machine gets from a run under way, who knows every address of it.

    python -m tests.e2e.testing.intruder RUN_DIRECTORY      prints {what was tried: what came of it}

It looks everything up as who it is, then becomes `nobody` (where it may) and tries.
"""

import asyncio
import encodings.idna  # noqa: F401 - here, because nobody may read the interpreter once it is `nobody`
import json
import os
import pathlib
import sys
import urllib.error
import urllib.request

import grpc
import nats
import nats.errors
from google.protobuf.descriptor import ServiceDescriptor

from penstock.coordinator.v1 import coordinator_pb2
from penstock.environment.v1 import environment_pb2
from penstock.generation.v1 import generation_pb2
from penstock.learner.v1 import learner_pb2
from penstock.reward.v1 import reward_pb2
from penstock.weights.v1 import weights_pb2

NOBODY = 65534
SERVED = {
    "coordinator": (coordinator_pb2,),
    "environment": (environment_pb2, reward_pb2),
    "generation": (generation_pb2,),
    "learner": (learner_pb2,),
    "weight_sync": (weights_pb2,),
}


def services(kind: str) -> list[ServiceDescriptor]:
    """The contracts that a kind of service answers."""
    return [s for module in SERVED.get(kind, ()) for s in module.DESCRIPTOR.services_by_name.values()]


async def call(address: str, path: str) -> str:
    """The status of an empty call that shows no token."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
            await method(b"", timeout=10)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "answered"


async def publish(url: str) -> str:
    """What NATS says to a connection without a token."""
    try:
        connection = await nats.connect(url, allow_reconnect=False, connect_timeout=5)
    except nats.errors.Error as error:
        return str(error)
    await connection.close()
    return "connected"


def page(address: str, host: str) -> int:
    """The status of the page."""
    try:
        request = urllib.request.Request(f"http://{address}/", headers={"Host": host})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def opened(path: pathlib.Path) -> str:
    """Whether a file can be read."""
    try:
        path.read_bytes()
    except PermissionError:
        return "refused"
    return "read"


async def main(run: pathlib.Path) -> dict[str, object]:
    addresses = json.loads((run / "addresses.json").read_text())
    files = [run / "recipe.yaml", *(run / "secrets").iterdir()]
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        got: dict[str, object] = {f"read {path.name}": opened(path) for path in files}
    else:
        got = {}
    got["nats"] = await publish(addresses["nats"])
    got["page"] = page(addresses["dashboard"], "127.0.0.1")
    got["page under another name"] = page(addresses["dashboard"], "evil.example")
    for name, address in addresses.items():
        for service in services(name.rpartition("-")[0] or name):
            for method in service.methods:
                got[f"{name}: {method.full_name}"] = await call(address, f"/{service.full_name}/{method.name}")
    return got


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(pathlib.Path(sys.argv[1])))))  # noqa: T201 - its answer
