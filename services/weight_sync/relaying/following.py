"""A relay's store has what weight_sync's has, as far as somebody was told of it or asks: each version is fetched once.

    told by weight_sync, or asked for  ->  coming  ->  whole or by its difference, checked  ->  kept, as long as there

One version is fetched at a time, in the order in which they were heard of, so that a difference finds its parent.

Invariants (test names): a version is fetched once, however many ask; what weight_sync has not the relay has not after
the next version; nothing is kept that is not the version that weight_sync has.
"""

import asyncio
import logging

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import DifferenceError
from penstock.fetching import FetchFailed, Source, bytes_received, described, failing, fetch_whole, led_on, told_of
from penstock.telemetry.waits import progress, waiting
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.chains import parent_of
from services.weight_sync.errors import NoParent, StoreError
from services.weight_sync.store import VersionStore

logger = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
LIST_SECONDS = 10.0
MOST_COMING = 64


class TooMany(Exception):
    """MOST_COMING versions are coming already."""


class Following:
    """source: weight_sync. name: this relay's."""

    def __init__(self, store: VersionStore, source: Source, name: str) -> None:
        self._store, self._source, self._name = store, source, name
        self._told: PolicyVersion | None = None
        self._coming = dict[tuple[int, int], asyncio.Future[str]]()
        self._wanted = asyncio.Queue[PolicyVersion]()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear())
            tasks.create_task(self._fetch_all())

    def coming(self, version: PolicyVersion) -> asyncio.Future[str]:
        """What is done once the version is there, or cannot be had: then it says why. Raises TooMany.

        Its digest is weight_sync's to say, whatever an asker names.
        """
        key = (version.epoch, version.step)
        if key not in self._coming:
            if len(self._coming) >= MOST_COMING:
                raise TooMany(f"{MOST_COMING} versions are being fetched already")
            self._coming[key] = asyncio.get_running_loop().create_future()
            self._wanted.put_nowait(PolicyVersion(epoch=version.epoch, step=version.step))
        return self._coming[key]

    async def _hear(self) -> None:
        async for told in told_of(self._source.channel, self._watching, RETRY_SECONDS):
            self._told = told.version
            try:
                self.coming(told.version)
            except TooMany as error:
                logger.warning("version %d is fetched when it is asked for: %s", told.version.step, error)

    def _watching(self) -> pb.WatchVersionsRequest:
        return pb.WatchVersionsRequest(receiver=self._name, held=self._told, relay=True)

    async def _fetch_all(self) -> None:
        while True:
            with waiting("a new version", on="weight_sync", deadline=None, idle=True):
                version = await self._wanted.get()
            why = ""
            try:
                await self._fetch(version)
            except FetchFailed as error:
                why = str(error)
                logger.warning("%s", why)
            self._coming.pop((version.epoch, version.step)).set_result(why)

    async def _fetch(self, version: PolicyVersion) -> None:
        """Raises FetchFailed; then nothing of it is left."""
        try:
            with failing(version):
                manifest = (await described(self._source, version)).manifest
                await self._retire()
                if self._store.get(version) is None:
                    await self._take(manifest)
        except StoreError as error:
            raise FetchFailed(f"cannot keep version {version.step}: {error}") from error
        finally:
            self._store.staging.abort(version)
        progress()

    async def _retire(self) -> None:
        """Of what weight_sync has no more. Raises rpc.RpcError."""
        stub = weights_pb2_grpc.WeightSyncServiceStub(self._source.channel)
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest(), timeout=LIST_SECONDS))
        gone = (pb.VERSION_STATE_RETIRED, pb.VERSION_STATE_STAGING)
        found = [info.version for info in listed.versions if info.state not in gone]
        self._store.keep_only({(v.step, v.epoch, v.digest) for v in found})

    async def _take(self, manifest: pb.Manifest) -> None:
        """Raises StoreError, and as `failing` expects."""
        staging, version = self._store.staging, manifest.version
        await asyncio.to_thread(self._store.begin, manifest)
        chain = await self._led_on(manifest)
        if chain is None:
            if not staging.has(version):  # what was made of it was another version
                await asyncio.to_thread(self._store.begin, manifest)
            staged = staging.find(version)
            staged.way = await fetch_whole(self._source, manifest, staged.output.view(), staged.receiver)
        crossed = manifest.total_size if chain is None else sum(map(len, chain))
        bytes_received.inc(crossed)
        self._store.commit(version, held=version.step)
        logger.info("version %d is served", version.step, extra={"bytes": crossed, "size": manifest.total_size})

    async def _led_on(self, manifest: pb.Manifest) -> list[memoryview] | None:
        """Makes it of its parent, where that is kept; None where it cannot be."""
        try:
            parent = parent_of(self._store.get, manifest)
        except NoParent as error:
            logger.info("version %d is fetched whole: %s", manifest.version.step, error)
            return None

        def make(chain: list[memoryview]) -> None:
            if len(chain) != 1:
                raise DifferenceError(f"{len(chain)} differences lead from the parent, not one")
            self._store.staging.feed_difference(manifest.version, chain[0])
            self._store.staging.apply_difference(manifest.version)

        return await led_on(self._source, manifest, parent.manifest, make)
