"""Puts a rank's part of a version where it belongs, by the shortest way.

    into weight_sync's own file, on its host (writing.py) | by its bulk socket (bulk.py) | as gRPC's stream (parts.py)

Invariant (test name): however tensors are dealt out to ranks, weight_sync gets the version of one rank alone.
"""

import asyncio
from collections.abc import Sequence

import grpc

from services.learner.publishing.bulk import Bulk
from services.learner.publishing.parts import Place, stream
from services.learner.publishing.writing import Piece, write


async def put(
    channel: grpc.aio.Channel, place: Place, pieces: Sequence[Piece], host: str | None, bulk: Bulk | None
) -> bool:
    """Puts pieces where they belong; whether into weight_sync's file. host: this one's boot id; None writes no file.
    bulk: as this rank sees it, where it may be used. Raises rpc.RpcError."""
    if not pieces:
        return False
    if place.path and host == place.boot_id and await asyncio.to_thread(write, place.path, place.size, pieces):
        return True
    if bulk is None or not await bulk.pour(channel, place, pieces):
        await stream(channel, "PushTensors", place.version, place.attempt, pieces)
    return False
