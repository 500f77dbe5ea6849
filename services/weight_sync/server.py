"""WeightSyncService over a VersionStore: who may call what is in weights.proto."""

import asyncio
import logging
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import DifferenceError
from penstock.system.boot import boot_id
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress, waiting
from penstock.tensors import ChecksumError, ManifestError, NoTensor, Overlapped, Receiver, TwiceError
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync import errors as e
from services.weight_sync.bulk import Bulk
from services.weight_sync.pushing.intake import bytes_received
from services.weight_sync.pushing.pushes import first_push, next_push
from services.weight_sync.serving import FETCH_ERRORS, Serving
from services.weight_sync.standing.canaries import Canaries
from services.weight_sync.standing.holds import Holds, TooManyHolds
from services.weight_sync.store import VersionStore
from services.weight_sync.tickets import Intake

RAW_REQUESTS, RAW_RESPONSES = ("PushTensors", "PushDifference"), ("FetchTensors", "FetchDifference")
"""What passes as raw frames: whoever adds the servicer to a server says so."""
# The longest a watcher sleeps before it looks again, whatever is announced: a bound, not a poll for changes.
WATCH_SECONDS = 30.0
# Receivers that are remembered; whoever was not heard of for longest is forgotten first.
MOST_RECEIVERS = 4096
# What the callers of weights.proto are told.
ERRORS: rpc.Refusals = {
    **FETCH_ERRORS,
    ManifestError: lambda text: rpc.invalid_argument(text, rpc.Violation("manifest", text)),
    ChecksumError: partial(rpc.data_loss, reason="CHECKSUM"),
    e.AlreadyStored: partial(rpc.already_exists, reason="VERSION_READY"),
    e.Refused: partial(rpc.failed_precondition, reason="VERSION_REFUSED"),
    e.NotStaged: partial(rpc.not_found, reason="NOT_STAGED"),
    e.NoParent: partial(rpc.not_found, reason="NO_PARENT"),
    e.Incomplete: partial(rpc.failed_precondition, reason="INCOMPLETE"),
    e.NotWritten: partial(rpc.failed_precondition, reason="NOT_WRITTEN"),
    e.NoRoom: partial(rpc.resource_exhausted, reason="NO_ROOM"),
    TooManyHolds: partial(rpc.resource_exhausted, reason="TOO_MANY_HOLDS"),
}
DIFFERENCE_ERRORS: rpc.Refusals = {
    **ERRORS,
    DifferenceError: lambda text: rpc.invalid_argument(f"data: {text}", rpc.Violation("data", text)),
}
# The receiver's complaint about bytes beyond the version's end is a plain ValueError.
PUSH_ERRORS: rpc.Refusals = {
    **ERRORS,
    NoTensor: lambda text: rpc.invalid_argument(f"offset: {text}", rpc.Violation("offset", text)),
    TwiceError: partial(rpc.failed_precondition, reason="TWICE"),
    ValueError: partial(rpc.out_of_range, reason="TOO_MANY_BYTES"),
}


logger = logging.getLogger(__name__)
_committed = metrics.counter(metrics.VERSIONS_PUBLISHED, "versions made READY")
_held = metrics.gauge(metrics.VERSION_HELD, "step of the newest READY version")
_applied = metrics.counter(metrics.VERSIONS_APPLIED, "versions that engines have applied")


class WeightSync(Serving):
    """One per process. Pushes and fetches touch bytes in threads; everything else is quick."""

    def __init__(self, store: VersionStore, canaries: int = 0, bulk: Bulk | None = None) -> None:
        """canaries: how many receivers are told a version that is on trial, where the store has them tried.
        bulk: the socket for whole versions, if there is one."""
        super().__init__(store, bulk)
        self._holds, self._canaries = Holds(), Canaries(canaries)
        self._changed = asyncio.Condition()
        self._receivers: dict[str, pb.Receiver] = {}
        self._pauses: deque[float] = deque(maxlen=1000)
        self._transfers: deque[float] = deque(maxlen=1000)
        self._applied = self._changes = self._relays = 0

    async def BeginVersion(self, request: pb.BeginVersionRequest, context: Any) -> pb.BeginVersionResponse:
        with rpc.refusing(ERRORS):
            attempt = await asyncio.to_thread(self._store.begin, request.manifest)
            places = self._store.staging.places(request.manifest.version)
        ways = {receiver.path for receiver in self._receivers.values()}
        all_mapped = ways == {pb.PATH_MAPPED} and not self._relays
        answer = pb.BeginVersionResponse(
            boot_id=boot_id() or "", all_mapped=all_mapped, attempt=attempt, takes_parts=True
        )
        if places is not None:
            path, difference = places
            answer.path, answer.difference_path = str(path), str(difference or "")
        return answer

    async def PushTensors(self, requests: Any, context: Any) -> pb.PushTensorsResponse:  # AsyncIterator[bytes]: raw
        messages = aiter(requests)
        first = await anext(messages, None)
        if first is None:
            return pb.PushTensorsResponse()
        begun, staging = first_push(first), self._store.staging
        version, offset, data = begun.version, begun.offset, begun.data
        with rpc.refusing(PUSH_ERRORS):
            attempt = staging.attempt(version, begun.attempt)
            part = None if offset is None else staging.part(version, attempt)
            try:
                feed = partial(staging.feed, version, attempt=attempt) if part is None else part.feed
                async with Overlapped(feed) as feeding:
                    while True:
                        if offset is not None:
                            await feeding.settled()
                            _seek(part, offset)
                        await feeding.put(data)
                        message = await anext(messages, None)
                        if message is None:
                            break
                        offset, data = next_push(message, version)
            finally:
                if part is not None:
                    part.close()
        bytes_received.inc(feeding.received)
        return pb.PushTensorsResponse(received=feeding.received)

    async def OpenPush(self, request: pb.OpenPushRequest, context: Any) -> pb.OpenPushResponse:
        staging, version = self._store.staging, request.version
        if self._bulk is None:
            raise rpc.failed_precondition("there is no bulk socket: push the tensors", reason="NO_BULK")
        with rpc.refusing(ERRORS):
            attempt = staging.attempt(version, request.attempt)
            staging.part(version, attempt)
        intake = Intake(partial(staging.part, version, attempt))
        ticket = self._bulk.tickets.issue(intake, time.monotonic())
        return pb.OpenPushResponse(ticket=ticket, port=self._bulk.port)

    async def PushDifference(self, requests: Any, context: Any) -> pb.PushDifferenceResponse:  # as PushTensors
        messages = aiter(requests)
        first = await anext(messages, None)
        if first is None:
            return pb.PushDifferenceResponse()
        begun = first_push(first)
        version = begun.version
        with rpc.refusing(DIFFERENCE_ERRORS):
            attempt = self._store.staging.attempt(version, begun.attempt)
            async with Overlapped(partial(self._store.staging.feed_difference, version, attempt=attempt)) as feeding:
                await feeding.put(begun.data)
                async for message in messages:
                    await feeding.put(next_push(message, version)[1])
            await asyncio.to_thread(self._store.staging.apply_difference, version, attempt)
        bytes_received.inc(feeding.received)
        return pb.PushDifferenceResponse(received=feeding.received)

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        with rpc.refusing(DIFFERENCE_ERRORS):
            staging, attempt = self._store.staging, request.attempt
            if staging.has(request.version):  # else it may be committed
                attempt = staging.attempt(request.version, attempt)
            if request.written:
                await asyncio.to_thread(staging.take_written, request.version, request.written, attempt)
            wrong = await asyncio.to_thread(self._store.examine, request.version)
            if staging.has(request.version):
                staging.attempt(request.version, attempt)  # no other one, begun while this was examined
            self._store.commit(request.version, self._holds.ceiling(time.monotonic()), wrong)
        if wrong:
            logger.error("version %d is rejected: %s", request.version.step, wrong)
        _committed.inc()
        _held.set(request.version.step)
        progress()
        await self._announce()
        return pb.CommitVersionResponse()

    async def AbortVersion(self, request: pb.AbortVersionRequest, context: Any) -> pb.AbortVersionResponse:
        self._store.staging.abort(request.version, request.attempt)
        return pb.AbortVersionResponse()

    async def WatchVersions(
        self, request: pb.WatchVersionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchVersionsResponse]:
        told = request.held if request.HasField("held") else None
        if rpc.caller() == "relay" and not request.relay:
            raise rpc.permission_denied(
                "relay: a relay watches as one; a receiver, which versions may be tried on, is no relay"
            )
        if request.relay:
            self._relays += 1
        else:
            self._come(request.receiver, told)
        try:
            while True:
                seen, offered = self._changes, self._offered("" if request.relay else request.receiver)
                if offered is not None and self._is_for(offered, told):
                    yield pb.WatchVersionsResponse(
                        version=offered, taken_back=told is not None and self._taken_back(told)
                    )
                    told = offered
                    continue
                await self._wait_for_change(seen)
        finally:
            if request.relay:
                self._relays -= 1
            else:
                self._canaries.leave(request.receiver)
                await self._announce()  # another one may have to take its place

    async def ReportApplied(self, request: pb.ReportAppliedRequest, context: Any) -> pb.ReportAppliedResponse:
        receiver = self._receiver(request.receiver)
        receiver.error = request.error
        receiver.failed.CopyFrom(request.version if request.error else PolicyVersion())
        if not request.error:
            receiver.version.CopyFrom(request.version)
            self._applied += 1
            _applied.inc()
            receiver.path, receiver.bytes, receiver.relay = request.path, request.bytes, request.relay
            receiver.pause.CopyFrom(request.pause)
            receiver.transfer.CopyFrom(request.transfer)
            self._pauses.append(request.pause.ToTimedelta().total_seconds())
            self._transfers.append(request.transfer.ToTimedelta().total_seconds())
        progress()
        return pb.ReportAppliedResponse()

    async def DecideVersion(self, request: pb.DecideVersionRequest, context: Any) -> pb.DecideVersionResponse:
        with rpc.refusing(ERRORS):
            self._store.decide(request.step, request.decision, request.reason, verdict=request.verdict)
        await self._announce()
        return pb.DecideVersionResponse(served=self._store.served())

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        for name, receiver in self._receivers.items():
            receiver.canary = self._canaries.are(name)
        response = pb.ListVersionsResponse(
            versions=self._store.infos(),
            receivers=self._receivers.values(),
            sent_bytes=self.sent,
            full_bytes=self.full,
            applied=self._applied,
            served=self._store.served(),
            rolled_back=self._store.rolled_back,
        )
        if self._pauses:
            response.pause_median.FromNanoseconds(int(statistics.median(self._pauses) * 1e9))
            response.transfer_median.FromNanoseconds(int(statistics.median(self._transfers) * 1e9))
        return response

    async def HoldVersions(self, request: pb.HoldVersionsRequest, context: Any) -> pb.HoldVersionsResponse:
        now, lease = time.monotonic(), request.lease.ToTimedelta().total_seconds()
        with rpc.refusing(ERRORS):
            self._holds.hold(request.holder, request.step, now + lease, now)
        await self._announce()
        return pb.HoldVersionsResponse()

    async def ReleaseHold(self, request: pb.ReleaseHoldRequest, context: Any) -> pb.ReleaseHoldResponse:
        self._holds.release(request.holder)
        await self._announce()
        return pb.ReleaseHoldResponse()

    def _come(self, name: str, told: PolicyVersion | None) -> None:
        receiver = self._receiver(name)
        if told is not None and not receiver.HasField("version"):  # it holds what an earlier life of this process gave
            receiver.version.CopyFrom(told)
        self._canaries.come(name)

    def _offered(self, receiver: str) -> PolicyVersion | None:
        """receiver: empty for a relay, which is no canary."""
        ceiling = self._holds.ceiling(time.monotonic())
        tried = self._store.trying(ceiling)
        return tried if tried is not None and self._canaries.are(receiver) else self._store.served(ceiling)

    def _is_for(self, offered: PolicyVersion, told: PolicyVersion | None) -> bool:
        """Whether a receiver that was told one version is to be told another: a newer one, or any where the one before
        is not promoted any more. A hold alone moves nobody back."""
        if told is None or (offered.step, offered.epoch) == (told.step, told.epoch):
            return told is None
        return offered.step > told.step or offered.epoch > told.epoch or not self._store.ready(told)

    def _taken_back(self, told: PolicyVersion) -> bool:
        """Whether what a receiver was told must not be used any more, rather than being superseded or retired."""
        return self._store.get(told) is not None and not self._store.ready(told)

    async def _announce(self) -> None:
        self._changes += 1
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for_change(self, seen: int) -> None:
        expiry = self._holds.next_expiry(time.monotonic())
        left = WATCH_SECONDS if expiry is None else min(WATCH_SECONDS, max(0.01, expiry - time.monotonic()))
        with waiting("a new version", on="learner", deadline=None, idle=True):
            async with self._changed:
                try:
                    async with asyncio.timeout(left):
                        await self._changed.wait_for(lambda: self._changes != seen)
                except TimeoutError:
                    return

    def _receiver(self, name: str) -> pb.Receiver:
        """A receiver's entry, made the last to be forgotten."""
        receiver = self._receivers[name] = self._receivers.pop(name, pb.Receiver(name=name))
        receiver.seen_at.GetCurrentTime()
        while len(self._receivers) > MOST_RECEIVERS:
            del self._receivers[next(iter(self._receivers))]
        return receiver


def _seek(part: Receiver | None, offset: int) -> None:
    if part is None:
        raise NoTensor("only a stream whose first message says where its bytes begin may say it again")
    part.seek(offset)
