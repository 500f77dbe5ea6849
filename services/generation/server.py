"""GenerationService over an EngineHost: limits, deadlines and error codes as in generation.proto."""

import json
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

from penstock import rpc
from penstock.common.v1.common_pb2 import SamplingParams
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.trajectories import float32s, from_int32s, int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.generation.engine import Chunk, EngineDied, from_label
from services.generation.engine_host import EngineHost
from services.generation.gate import PinMissed
from services.generation.together import together

# Requests admitted beyond a full batch, so that a place that becomes free is filled at once.
QUEUE_FACTOR = 4
FINISH = {"stop": trajectory_pb2.FINISH_REASON_STOP, "length": trajectory_pb2.FINISH_REASON_LENGTH}

# What the callers of generation.proto are told.
ERRORS: rpc.Refusals = {
    PinMissed: partial(rpc.failed_precondition, reason="PIN_MISSED"),
    EngineDied: lambda _: rpc.unavailable("the engine died and is being started again", reason="ENGINE_DIED"),
    TimeoutError: lambda _: rpc.deadline_exceeded("the engine was not ready in time"),
}


class Generation(generation_pb2_grpc.GenerationServiceServicer):
    """One engine replica."""

    def __init__(self, host: EngineHost, vocabulary: int) -> None:
        self._host, self._vocabulary = host, vocabulary
        self._admitted = 0
        self._draining = self._written_off = False

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        prompt = from_int32s(request.prompt_tokens)
        self._check_tokens("prompt_tokens", int(prompt.min()), int(prompt.max()))
        samples = max(1, request.samples)
        self._check_room("prompt_token_count", request.prompt_token_count, request.sampling.max_tokens, samples)
        pinned = request.pinned_step if request.HasField("pinned_step") else None

        def late(_: str) -> rpc.Abort:
            held = self._host.version.step
            return rpc.deadline_exceeded(f"min_step {request.min_step}: the engine holds version {held}")

        with self._counted(samples), rpc.refusing({**ERRORS, TimeoutError: late}):
            async with self._host.gate.passing(request.min_step, pinned, context.time_remaining() or 60.0):
                drawn = together([self._drawing(request, prompt.tolist(), i) for i in range(samples)])
                async with aclosing(drawn):  # type: ignore[type-var]
                    async for sample, chunk in drawn:
                        yield pb.GenerateResponse(
                            sample=sample,
                            tokens=int32s(chunk.tokens),
                            logprobs=float32s(chunk.logprobs),
                            token_count=len(chunk.tokens),
                            version_segments=[
                                trajectory_pb2.VersionSegment(first=first, version=from_label(label))
                                for first, label in chunk.spans
                            ],
                            finish_reason=FINISH.get(
                                chunk.finish_reason or "", trajectory_pb2.FINISH_REASON_UNSPECIFIED
                            ),
                            cached_prompt_tokens=chunk.cached_prompt_tokens,
                            routes=chunk.routes,
                        )

    def _drawing(self, request: pb.GenerateRequest, prompt: list[int], sample: int) -> AsyncGenerator[Chunk, None]:
        """One of a request's samples: by a name, and a seed if there is one, of its own."""
        rows = request.routes_from if request.HasField("routes_from") else None
        if request.samples <= 1:
            return self._host.generate(request.request_id, prompt, request.sampling, request.steady, rows)
        if sample and rows is not None:  # what is before it was computed once, and is told with the first sample
            rows = max(rows, len(prompt) - 1)
        sampling = SamplingParams()
        sampling.CopyFrom(request.sampling)
        if sampling.HasField("seed"):
            sampling.seed += sample
        return self._host.generate(f"{request.request_id}/{sample:04}", prompt, sampling, request.steady, rows)

    async def ScoreTokens(self, request: pb.ScoreTokensRequest, context: Any) -> pb.ScoreTokensResponse:
        tokens = from_int32s(request.tokens)
        self._check_tokens("tokens", int(tokens.min()), int(tokens.max()))
        self._check_room("token_count", request.token_count, 1)
        if request.top > self._vocabulary:
            text = f"is {request.top}; the model has {self._vocabulary} tokens"
            raise rpc.invalid_argument(f"top: {text}", rpc.Violation("top", text))
        with self._counted(), rpc.refusing(ERRORS):
            async with self._host.gate.passing(0, None, context.time_remaining() or 60.0):
                version = self._host.version
                said = await self._host.score(request.request_id, tokens.tolist(), request.first, request.top)
            return pb.ScoreTokensResponse(
                logprobs=float32s(said.logprobs),
                count=len(said.logprobs),
                version=version,
                top_tokens=int32s([token for position in said.top_tokens for token in position]),
                top_logprobs=float32s([value for position in said.top_logprobs for value in position]),
            )

    async def GetEngine(self, request: pb.GetEngineRequest, context: Any) -> pb.GetEngineResponse:
        host, rows = self._host, self._host.routes
        running = min(host.running, host.settings.max_running)
        return pb.GetEngineResponse(
            model=host.settings.model,
            state=pb.GetEngineResponse.STATE_DRAINING if self._draining else host.state,
            version=host.version,
            running=running,
            waiting=max(0, self._admitted - running),
            max_running=host.settings.max_running,
            max_context=host.settings.max_context,
            tokens_generated=host.tokens_generated,
            engine_starts=host.engine_starts,
            route_layers=rows.layers if rows else 0,
            route_top=rows.top if rows else 0,
            route_experts=rows.experts if rows else 0,
        )

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        self._draining = True
        return pb.DrainResponse(running=self._admitted)

    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        self._draining = False
        return pb.ResumeResponse()

    def refuse(self, away: bool) -> None:
        """Takes no new request while others have written this process off: they no longer count on its answers."""
        self._written_off = away

    @contextmanager
    def _counted(self, requests: int = 1) -> Iterator[None]:
        """Counts requests while they are admitted."""
        self._admitted += requests
        try:
            yield
        finally:
            self._admitted -= requests

    def _check_tokens(self, field: str, least: int, greatest: int) -> None:
        if self._draining or self._written_off:
            why = "is draining" if self._draining else "cannot announce itself, and takes no work"
            raise rpc.unavailable(f"the replica {why}", reason="DRAINING")
        if least < 0 or greatest >= self._vocabulary:
            text = f"holds id {least if least < 0 else greatest}; the model's vocabulary is 0..{self._vocabulary - 1}"
            raise rpc.invalid_argument(f"{field}: {text}", rpc.Violation(field, text))

    def _check_room(self, field: str, tokens: int, drawn: int, samples: int = 1) -> None:
        limit = self._host.settings.max_context
        if tokens + drawn > limit:
            raise rpc.out_of_range(
                f"{field} {tokens} + {drawn} tokens to draw exceed the engine's context of {limit}",
                reason="CONTEXT",
                metadata={"max_context": str(limit)},
            )
        if self._admitted and self._admitted + samples > QUEUE_FACTOR * self._host.settings.max_running:
            raise rpc.resource_exhausted(f"{self._admitted} requests wait already", reason="QUEUE_FULL")


def vocabulary_of(model: str) -> int:
    """Number of token ids of a model directory. Raises ValueError if it is not one."""
    path = pathlib.Path(model, "config.json")
    try:
        return int(json.loads(path.read_text())["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{model!r} is not a Hugging Face model directory: {error}") from error
