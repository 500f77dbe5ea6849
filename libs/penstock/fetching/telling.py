"""What weight_sync tells those that watch: which version they are to hold."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import grpc

from penstock import rpc
from penstock.telemetry.waits import waiting
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc

logger = logging.getLogger(__name__)


async def told_of(
    channel: grpc.aio.Channel, request: Callable[[], pb.WatchVersionsRequest], again: float
) -> AsyncIterator[pb.WatchVersionsResponse]:
    """Hears of versions for ever; a lost stream is asked for again, by a new request, after `again` seconds."""
    stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
    while True:
        try:
            with rpc.translated():
                async for told in stub.WatchVersions(request()):
                    yield told
        except rpc.RpcError as error:
            logger.info("watching versions again: %s", error)
        with waiting("weight_sync", on="weight_sync", deadline=again):
            await asyncio.sleep(again)
