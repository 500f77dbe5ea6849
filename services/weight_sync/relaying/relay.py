"""WeightSyncService of a relay: it serves what it has fetched of weight_sync's versions, and decides of nothing.

Invariants (test names): a relay answers within a moment, if only that it is fetching; what it cannot answer it refuses
in one sentence.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from penstock import rpc
from penstock.fetching import ANSWER_SECONDS, FETCHING
from penstock.telemetry.waits import waiting
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.bulk import Bulk
from services.weight_sync.relaying.following import Following, TooMany
from services.weight_sync.serving import Serving
from services.weight_sync.store import VersionStore

REFUSAL = "this is a relay: it serves versions and takes, tells and decides of none; ask the run's weight_sync"


async def _refused(self: Any, request: Any, context: Any) -> Any:
    raise rpc.failed_precondition(REFUSAL, reason="RELAY")


class Relay(Serving):
    """One per process."""

    def __init__(self, store: VersionStore, bulk: Bulk | None, following: Following) -> None:
        super().__init__(store, bulk)
        self._following = following

    async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> pb.GetManifestResponse:
        version = request.version
        if self._store.get(version) is None:
            try:
                coming = self._following.coming(version)
            except TooMany as error:
                raise rpc.resource_exhausted(str(error), reason="TOO_MANY_VERSIONS") from error
            with waiting(f"version {version.step}", on="weight_sync", deadline=ANSWER_SECONDS):
                await asyncio.wait([coming], timeout=ANSWER_SECONDS)
            if not coming.done():
                raise rpc.unavailable(f"version {version.step} is being fetched", retry_after=0.1, reason=FETCHING)
            if coming.result():
                raise rpc.not_found(f"version {version.step} cannot be had: {coming.result()}", reason="NO_VERSION")
        return await super().GetManifest(request, context)

    async def WatchVersions(
        self, request: pb.WatchVersionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchVersionsResponse]:
        yield await _refused(self, request, context)

    async def PushTensors(self, requests: Any, context: Any) -> Any:
        return await _refused(self, requests, context)

    async def PushDifference(self, requests: Any, context: Any) -> Any:
        return await _refused(self, requests, context)

    OpenPush = BeginVersion = CommitVersion = AbortVersion = _refused
    ReportApplied = DecideVersion = ListVersions = HoldVersions = ReleaseHold = _refused
