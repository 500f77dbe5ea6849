"""LearnerService on rank 0: what the learner is doing, and how it is asked to save or to end."""

import dataclasses
import threading
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from penstock import rpc
from penstock.learner.v1 import learner_pb2 as pb
from penstock.learner.v1 import learner_pb2_grpc
from services.learner.leader.feed import Feed

State = pb.GetStatusResponse.State


@dataclasses.dataclass
class Status:
    """Written by the training thread, read by the server; single fields, so no lock is needed."""

    max_steps: int
    epoch: int = 0
    step: int = 0
    state: State = State.STATE_STARTING
    checkpoint_step: int | None = None
    step_ended: float | None = None
    step_started_at: Timestamp = dataclasses.field(default_factory=Timestamp)
    save_wanted: threading.Event = dataclasses.field(default_factory=threading.Event)
    drain_wanted: threading.Event = dataclasses.field(default_factory=threading.Event)
    finish_wanted: threading.Event = dataclasses.field(default_factory=threading.Event)


class Learner(learner_pb2_grpc.LearnerServiceServicer):
    """The control surface of one learner."""

    def __init__(self, status: Status, feed: Feed, checkpoints: str) -> None:
        self._status, self._feed, self._checkpoints = status, feed, checkpoints

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        s = self._status
        response = pb.GetStatusResponse(
            state=s.state,
            max_steps=s.max_steps,
            log_sequence=self._feed.log_sequence,
            step_started_at=s.step_started_at,
        )
        response.version.epoch, response.version.step = s.epoch, s.step
        if s.checkpoint_step is not None:
            response.checkpoint_step = s.checkpoint_step
        return response

    async def SaveCheckpoint(self, request: pb.SaveCheckpointRequest, context: Any) -> pb.SaveCheckpointResponse:
        self._status.save_wanted.set()
        return pb.SaveCheckpointResponse(step=self._status.step, path=self._checkpoints)

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        self._status.state = State.STATE_DRAINING
        if request.finish:
            self._status.finish_wanted.set()
        self._status.drain_wanted.set()
        return pb.DrainResponse()

    async def GetBatchRecord(self, request: pb.GetBatchRecordRequest, context: Any) -> pb.GetBatchRecordResponse:
        record = self._feed.ledger.batches.get(request.step)
        if record is None:
            raise rpc.not_found(
                f"step {request.step} has no batch; the newest is {self._feed.ledger.step}", reason="NO_STEP"
            )
        return pb.GetBatchRecordResponse(record=record)
