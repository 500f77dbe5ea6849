"""A fake engine: a GenerationService over real gRPC that follows a script, one entry per Generate call.

A script entry is a list of what the stream does: `Tokens` to send, an `rpc` abort to raise, `Wait` for an event.
Without a script it draws `answer(prompt)`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.trajectories import float32s, from_int32s, int32s
from penstock.trajectory.v1 import trajectory_pb2


@dataclass
class Tokens:
    """A chunk. `logprobs` default to -0.5 each."""

    tokens: Sequence[int]
    step: int = 0
    finish: trajectory_pb2.FinishReason = trajectory_pb2.FINISH_REASON_UNSPECIFIED
    logprobs: Sequence[float] | None = None
    segments: bool = True

    def response(self) -> pb.GenerateResponse:
        logprobs = [-0.5] * len(self.tokens) if self.logprobs is None else self.logprobs
        response = pb.GenerateResponse(
            tokens=int32s(self.tokens),
            logprobs=float32s(logprobs),
            token_count=len(self.tokens),
            finish_reason=self.finish,
        )
        if self.segments and self.tokens:
            response.version_segments.add(first=0, version=PolicyVersion(epoch=1, step=self.step))
        return response


Step = Tokens | rpc.Abort | asyncio.Event


@dataclass
class FakeEngine(generation_pb2_grpc.GenerationServiceServicer):
    """See the module. `requests` and `prompts` are what it was asked."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    Drain: ClassVar[Any]
    GetEngine: ClassVar[Any]
    Resume: ClassVar[Any]
    ScoreTokens: ClassVar[Any]

    script: list[list[Step]] = field(default_factory=list)
    answer: Callable[[list[int]], list[int]] = lambda prompt: [7, 2]
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    address: str = ""

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        prompt = from_int32s(request.prompt_tokens).tolist()
        self.prompts.append(prompt)
        if not self.script:
            stop = trajectory_pb2.FINISH_REASON_STOP
            yield Tokens(self.answer(prompt), finish=stop).response()
            return
        for step in self.script.pop(0):
            if isinstance(step, rpc.Abort):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                yield step.response()


@contextlib.asynccontextmanager
async def serving(*engines: FakeEngine) -> AsyncIterator[list[str]]:
    """The engines' addresses while they serve."""
    async with contextlib.AsyncExitStack() as stack:
        for engine in engines:
            server = await stack.enter_async_context(rpc.Server("generation"))
            server.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, engine)
            await server.start()
            engine.address = server.address
        yield [engine.address for engine in engines]
