"""Another team's reward, which falls silent when it is told to."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, ClassVar

import grpc

from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc


class Theirs(reward_pb2_grpc.RewardServiceServicer):
    """Scores 0 at `address`, in a thread of this process; while it is silent it takes calls and answers none."""

    Describe: ClassVar[Any]
    ScoreStream: ClassVar[Any]

    def __init__(self) -> None:
        self._speaks = threading.Event()
        self._speaks.set()
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        reward_pb2_grpc.add_RewardServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        self._speaks.wait()
        return pb.ScoreResponse(results=[pb.ScoreResult(id=i.id, score=pb.Score(value=0.0)) for i in request.items])

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It answers nothing for the block."""
        self._speaks.clear()
        try:
            yield
        finally:
            self._speaks.set()
