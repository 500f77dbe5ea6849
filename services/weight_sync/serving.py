"""What receivers fetch of a store's versions: weight_sync's own part and a relay's, which has no other."""

import time
from functools import partial
from typing import Any

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.system.boot import boot_id
from penstock.tensors import CHUNK_BYTES, frame
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync import errors as e
from services.weight_sync.bulk import Bulk, bytes_sent
from services.weight_sync.disk.files import Stored
from services.weight_sync.store import VersionStore
from services.weight_sync.tickets import Grant

FETCH_ERRORS: rpc.Refusals = {
    e.NoDifference: partial(rpc.not_found, reason="NO_DIFFERENCE"),
    e.NotKept: partial(rpc.not_found, reason="NO_VERSION"),
}


class Serving(weights_pb2_grpc.WeightSyncServiceServicer):
    """Of one store. bulk: the socket for whole versions, if there is one."""

    def __init__(self, store: VersionStore, bulk: Bulk | None) -> None:
        self._store, self._bulk = store, bulk
        self._sent = self._full = 0

    @property
    def sent(self) -> int:
        """Bytes that left the store."""
        return self._sent + (self._bulk.sent if self._bulk is not None else 0)

    @property
    def full(self) -> int:
        """Those of the versions that they were of."""
        return self._full + (self._bulk.full if self._bulk is not None else 0)

    async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> pb.GetManifestResponse:
        stored = self._find(request.version)
        return pb.GetManifestResponse(
            manifest=stored.manifest, path=str(stored.path.absolute()), boot_id=boot_id() or ""
        )

    async def FetchTensors(self, request: pb.FetchTensorsRequest, context: Any) -> Any:  # AsyncIterator[bytes]: raw
        stored, size = self._wanted(request)
        if request.offset == 0:
            self._full += size
        for start in range(request.offset, size, CHUNK_BYTES):
            chunk = stored.view[start : start + CHUNK_BYTES]
            self._sent += chunk.nbytes
            bytes_sent.inc(chunk.nbytes)
            yield frame(chunk, field=pb.FetchTensorsResponse.DATA_FIELD_NUMBER)

    async def OpenBulk(self, request: pb.OpenBulkRequest, context: Any) -> pb.OpenBulkResponse:
        stored, size = self._wanted(request)
        if self._bulk is None:
            raise rpc.failed_precondition("there is no bulk socket: fetch the tensors", reason="NO_BULK")
        ticket = self._bulk.tickets.issue(Grant(stored.path, request.offset, size), time.monotonic())
        return pb.OpenBulkResponse(ticket=ticket, port=self._bulk.port)

    async def FetchDifference(self, request: pb.FetchDifferenceRequest, context: Any) -> Any:  # as FetchTensors
        with rpc.refusing(FETCH_ERRORS):
            chain = self._store.differences(request.version, request.held)
        self._full += self._find(request.version).manifest.total_size
        yield pb.FetchDifferenceResponse(sizes=[each.nbytes for each in chain]).SerializeToString()
        for each in chain:
            for start in range(0, each.nbytes, CHUNK_BYTES):
                chunk = each[start : start + CHUNK_BYTES]
                self._sent += chunk.nbytes
                bytes_sent.inc(chunk.nbytes)
                yield frame(chunk, field=pb.FetchDifferenceResponse.DATA_FIELD_NUMBER)

    def _find(self, version: PolicyVersion) -> Stored:
        stored = self._store.get(version)
        if stored is None:
            raise rpc.not_found(
                f"step {version.step} of epoch {version.epoch} is unknown or retired", reason="NO_VERSION"
            )
        return stored

    def _wanted(self, request: pb.FetchTensorsRequest | pb.OpenBulkRequest) -> tuple[Stored, int]:
        """The version of which a receiver wants the bytes, and how many it has."""
        stored = self._find(request.version)
        size = stored.manifest.total_size
        if request.offset > size:
            raise rpc.out_of_range(f"offset: {request.offset} is beyond the end, {size}", reason="OFFSET")
        return stored, size
