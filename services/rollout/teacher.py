"""Asks a teacher how likely it finds a finished sample's tokens: the signal of on-policy distillation.

The teacher is a generation replica of another model with the same vocabulary; only what the policy drew is judged. A
teacher that is away is asked again, or another one is, until the group's deadline: a sample without its teacher's word
is FAILED{generation}, never trained on half.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from penstock import rpc
from penstock.generation.v1 import generation_pb2 as pb
from penstock.replicas.engines import GenerationFailed, Replica, replicas_of
from penstock.replicas.pool import Pool, Where
from penstock.trajectories import float32s, from_float32s, from_int32s, int32s
from penstock.trajectory.v1 import trajectory_pb2

ATTEMPT_SECONDS = 60.0
AWAY = rpc.Retry((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED))


class Teacher:
    """Replicas of one teacher, asked in turn. top: how many of its likeliest tokens it names at every position."""

    def __init__(self, replicas: Pool[Replica], top: int = 0) -> None:
        self._replicas, self._top, self._turn = replicas, top, 0

    async def judge(self, t: trajectory_pb2.Trajectory, until: float) -> None:
        """Fills `t.teacher_logprobs`, and with `top` what the teacher would rather have drawn.

        `until` is a time of time.monotonic(). Raises GenerationFailed.
        """
        first = t.loss_mask.find(1)
        request = pb.ScoreTokensRequest(
            request_id=uuid.uuid4().hex, tokens=t.tokens, token_count=t.token_count, first=first, top=self._top
        )
        what = f"the teacher's word on {t.group}/{t.index}"

        async def ask(left: float) -> pb.ScoreTokensResponse:
            if not await self._replicas.some("a teacher", on="teacher", within=left):
                raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "no teacher takes part in the run")
            replica = self._replicas[self._turn % len(self._replicas)]
            self._turn += 1
            return await rpc.call(replica.stub.ScoreTokens(request, timeout=min(ATTEMPT_SECONDS, left)))

        on = f"teacher {', '.join(replica.address for replica in self._replicas)}".strip()
        try:
            answer = await rpc.retried(AWAY, until - time.monotonic(), ask, what=what, on=on)
        except rpc.RpcError as error:
            raise GenerationFailed(f"the teacher: {error}") from error
        given = from_float32s(answer.logprobs)
        if len(given) != t.token_count - first or not np.isfinite(given).all():
            wanted = t.token_count - first
            raise GenerationFailed(
                f"the teacher gave {len(given)} values for {wanted} tokens, or one that is not finite"
            )
        drawn = np.frombuffer(t.loss_mask, np.uint8) == 1
        t.teacher_logprobs = float32s(np.where(drawn, np.concatenate([np.zeros(first, np.float32), given]), 0.0))
        if self._top:
            self._fill_top(t, first, from_int32s(answer.top_tokens), from_float32s(answer.top_logprobs), drawn)

    def _fill_top(
        self,
        t: trajectory_pb2.Trajectory,
        first: int,
        tokens: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        drawn: NDArray[np.bool_],
    ) -> None:
        wanted = (t.token_count - first) * self._top
        if not len(tokens) == len(logprobs) == wanted or not np.isfinite(logprobs).all():
            raise GenerationFailed(
                f"the teacher named {len(tokens)} tokens with {len(logprobs)} values, {wanted} were asked for, or one "
                "is not finite"
            )

        def spread(values: NDArray[Any]) -> NDArray[Any]:
            whole = np.zeros((t.token_count, self._top), values.dtype)
            whole[first:] = values.reshape(-1, self._top)
            return np.where(drawn[:, None], whole, 0).reshape(-1)

        t.teacher_top = self._top
        t.teacher_top_tokens, t.teacher_top_logprobs = int32s(spread(tokens)), float32s(spread(logprobs))


@asynccontextmanager
async def teacher(where: Where, security: rpc.Security, top: int = 0) -> AsyncIterator[Teacher]:
    """A Teacher over open channels."""
    async with replicas_of(where, security) as replicas:
        yield Teacher(replicas, top)
