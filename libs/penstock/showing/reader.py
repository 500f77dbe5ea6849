"""The calls of CoordinatorService that only read a run's streams: its steps, its samples, and where each went."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from penstock import rpc
from penstock.bus import Bus, RunNames, last_entry, load_payload
from penstock.chat import HasText
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.ledger import Fate, Ledger
from penstock.rules.quarantine import BadEntry
from penstock.showing.history import History
from penstock.showing.samples import readable
from penstock.trajectories import read_sample
from penstock.trajectory.v1 import trajectory_pb2

STEPS_PER_PAGE = 500
RECENT = 500
"""Samples at the end of the log that are shown."""


class Reader(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """Over the streams of one run. recent: its latest samples, newest first; ledger: what is in memory of its past."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        ledger: Ledger,
        recent: Callable[[], Iterable[trajectory_pb2.Trajectory]],
        chat: HasText,
    ) -> None:
        self._bus, self._names, self._ledger, self._recent, self._chat = bus, names, ledger, recent, chat
        self._history = History(bus, names, ledger)

    async def ListSteps(self, request: pb.ListStepsRequest, context: Any) -> pb.ListStepsResponse:
        size = request.page_size or STEPS_PER_PAGE
        found = await self._history.reports(request.after, size + 1)
        return pb.ListStepsResponse(steps=found[:size], more=len(found) > size)

    async def ListSamples(self, request: pb.ListSamplesRequest, context: Any) -> pb.ListSamplesResponse:
        wanted = [t for t in self._recent() if request.kind in (trajectory_pb2.TASK_KIND_UNSPECIFIED, t.kind)]
        return pb.ListSamplesResponse(samples=[readable(t, self._chat) for t in wanted[: request.page_size or 50]])

    async def GetSample(self, request: pb.GetSampleRequest, context: Any) -> pb.GetSampleResponse:
        try:
            subject = self._names.log_subject(request.group, request.index)
        except ValueError as error:
            raise rpc.invalid_argument(str(error), rpc.Violation("group", str(error))) from error
        entry = await last_entry(self._bus, self._names.log, subject)
        if entry is None:
            raise rpc.not_found(f"{request.group}/{request.index} is not in the log", reason="NO_SAMPLE")
        try:
            t = read_sample(self._names, entry.subject, await load_payload(self._bus, self._names, entry.payload))
        except BadEntry as bad:
            raise rpc.failed_precondition(f"the sample is quarantined: {bad}", reason="QUARANTINED") from bad
        return pb.GetSampleResponse(sample=readable(t, self._chat))

    async def GetLineage(self, request: pb.GetLineageRequest, context: Any) -> pb.GetLineageResponse:
        if request.WhichOneof("of") == "step":
            record = await self._history.batch(request.step)
            if record is None:
                words = f"step {request.step} has no batch; the newest is {self._ledger.step}"
                raise rpc.not_found(words, reason="NO_STEP")
            return pb.GetLineageResponse(step=request.step, fate="TRAINED", samples=_entries(record))
        group_name, _, index = request.sample.partition("/")
        group = await self._history.group(group_name)
        if group is None or not re.fullmatch("[0-9]{1,10}", index) or int(index) >= group.admitted.group_size:
            raise rpc.not_found(
                f"sample {request.sample!r} was never admitted; ids are group/index", reason="NO_SAMPLE"
            )
        response = pb.GetLineageResponse(fate=group.fate.value, detail=group.detail)
        record = await self._history.batch(group.step) if group.fate is Fate.TRAINED and group.step else None
        if record is not None:
            entries = [e for e in _entries(record) if e.group == group_name and e.index == int(index)]
            if entries:
                response.step = record.step
                response.samples.extend(entries)
            else:
                response.fate, response.detail = "FAILED", f"its group was trained in step {group.step} without it"
        return response


def _entries(record: trajectory_pb2.BatchRecord) -> list[pb.LineageEntry]:
    return [
        pb.LineageEntry(group=g.group, index=i, log_sequence=s)
        for g in record.groups
        for i, s in zip(g.indices, g.log_sequences, strict=True)
    ]
