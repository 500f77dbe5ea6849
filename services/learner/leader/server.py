"""LearnerService on rank 0: what the learner is doing, and how it is asked to save or to end."""

from typing import Any

from penstock import rpc
from penstock.learner.v1 import learner_pb2 as pb
from penstock.learner.v1 import learner_pb2_grpc
from services.learner.leader.follow import Following
from services.learner.leader.status import State, Status


class Learner(learner_pb2_grpc.LearnerServiceServicer):
    """The control surface of one learner."""

    def __init__(self, status: Status, following: Following, checkpoints: str) -> None:
        self._status, self._following, self._checkpoints = status, following, checkpoints

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        s = self._status
        response = pb.GetStatusResponse(
            state=s.state,
            max_steps=s.max_steps,
            log_sequence=self._following.log_sequence,
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
        ledger = self._following.ledger
        record = ledger.batches.get(request.step)
        if record is None and 0 < request.step <= ledger.forgotten:
            raise rpc.not_found(
                f"step {request.step} is not in the learner's memory any more; GetLineage of the coordinator has it",
                reason="NO_STEP",
            )
        if record is None:
            raise rpc.not_found(f"step {request.step} has no batch; the newest is {ledger.step}", reason="NO_STEP")
        return pb.GetBatchRecordResponse(record=record)
