"""What weight_sync says of its versions. Its silence is no answer: nothing follows of that, and it is asked again."""

from collections.abc import Callable

import grpc

from penstock import rpc
from penstock.telemetry.waits import waiting
from penstock.weights.v1.weights_pb2 import ListVersionsResponse
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.peers import Peers


class Silent(rpc.RpcError):
    """weight_sync does not answer."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, "weight_sync does not answer")


async def ask(peers: Peers) -> ListVersionsResponse:
    """Its versions, asked for once. Raises Silent."""
    answer = await peers.versions()
    if answer is None:
        raise Silent
    return answer


async def listed(
    following: Following, peers: Peers, stopping: Callable[[], bool] = lambda: False
) -> ListVersionsResponse | None:
    """Its versions, asked for until it answers; None where `stopping` holds before."""
    with waiting("what weight_sync says of its versions", on="weight_sync", deadline=None):
        while not stopping():
            seen = following.changes
            try:
                return await ask(peers)
            except Silent:
                await following.changed(seen, TICK_SECONDS)  # nobody announces that it is back
    return None
