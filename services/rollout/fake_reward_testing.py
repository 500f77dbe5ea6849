"""A reward service that answers as a test says, and what it is asked and says."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from penstock import rpc
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc

Answer = Callable[[pb.ScoreItem], Sequence[pb.ScoreResult]]


class FakeReward(reward_pb2_grpc.RewardServiceServicer):
    """A reward service that answers each item with `answer`, after the failures in `script`."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    Describe: ClassVar[Any]
    ScoreStream: ClassVar[Any]

    def __init__(self, answer: Answer, script: Sequence[rpc.Abort] = ()) -> None:
        self._answer, self._script = answer, list(script)
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        self.batches.append([i.completion for i in request.items])
        await self.gate.wait()
        if self._script:
            raise self._script.pop(0)
        return pb.ScoreResponse(results=[r for item in request.items for r in self._answer(item)])


def scored(value: float) -> Answer:
    return lambda item: [pb.ScoreResult(id=item.id, score=pb.Score(value=value))]


def item(text: str = "x") -> pb.ScoreItem:
    return pb.ScoreItem(id="0", completion=text)
