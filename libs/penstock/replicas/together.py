"""The first turns of a group's samples in one call: they have one prompt, and a message costs more than what is in it.

Samples that begin in the same moment meet by themselves: whoever comes first waits for one turn of the event loop, in
which the others come too. A sample that is alone makes the call that it always made.

Invariant (test name): a call that is shared ends when nobody is left who reads it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncGenerator

import grpc

from penstock import rpc
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.trajectories.routes import RouteShape, packed, unpacked
from penstock.trajectory.v1.trajectory_pb2 import Routes

Told = pb.GenerateResponse | Exception | None
"""What a sample's queue has: its chunks, then why there are no more, or None where the stream just ended."""


MOST = 1024
"""Samples of one call, as GenerateRequest.samples has it."""


class Alone(Exception):
    """The replica drew one sample of those that it was asked for: it is older than such calls."""


@dataclasses.dataclass
class _Party:
    """Who meets, each with its queue. seconds: of the most patient."""

    request: pb.GenerateRequest
    seconds: float = 0.0
    queues: list[asyncio.Queue[Told]] = dataclasses.field(default_factory=list)
    readers: int = 0
    call: asyncio.Task[None] | None = None


class Together:
    """The calls of one replica. `alone`: whether it draws one sample a call."""

    def __init__(self, stub: generation_pb2_grpc.GenerationServiceAsyncStub) -> None:
        self._stub = stub
        self._parties: dict[bytes, _Party] = {}
        self.alone = False

    async def one(self, request: pb.GenerateRequest, seconds: float) -> AsyncGenerator[pb.GenerateResponse, None]:
        """The chunks of a call of one's own; `request` has its group for an id. Raises RpcError."""
        request.request_id = f"{request.request_id}-{uuid.uuid4().hex[:12]}"
        call = self._stub.Generate(request, timeout=seconds)
        try:
            with rpc.translated():
                async for chunk in call:
                    yield chunk
        finally:
            call.cancel()  # one that has ended is left as it is

    async def shared(self, request: pb.GenerateRequest, seconds: float) -> AsyncGenerator[pb.GenerateResponse, None]:
        """One's own chunks of a call that is shared with whoever asks the same in this moment. Raises RpcError, and
        Alone before there was any chunk."""
        key = request.SerializeToString(deterministic=True)
        party = self._parties.get(key)
        if party is None or len(party.queues) >= MOST:
            party = self._parties[key] = _Party(request)
            asyncio.get_running_loop().call_soon(self._begin, key, party)
        mine: asyncio.Queue[Told] = asyncio.Queue()
        party.queues.append(mine)
        party.readers += 1
        party.seconds = max(party.seconds, seconds)
        try:
            while (told := await mine.get()) is not None:
                if isinstance(told, Exception):
                    raise told
                yield told
        finally:
            party.readers -= 1
            if party.readers == 0 and party.call is not None:
                party.call.cancel()

    def _begin(self, key: bytes, party: _Party) -> None:
        if self._parties.get(key) is party:
            del self._parties[key]
        if party.readers:
            party.call = asyncio.create_task(self._read(party))

    async def _read(self, party: _Party) -> None:
        """Makes the call and deals out what comes of it."""
        if len(party.queues) > 1:
            party.request.samples = len(party.queues)
        ended: Told = None
        several = False
        try:
            async for chunk in self.one(party.request, party.seconds):
                several = several or chunk.sample > 0
                party.queues[chunk.sample].put_nowait(chunk)
                if chunk.sample == 0 and chunk.HasField("routes"):
                    _share(chunk.routes, party)
        except rpc.RpcError as error:
            ended = error
        except IndexError:
            text = f"a chunk of sample {chunk.sample}, of {len(party.queues)}"
            ended = rpc.RpcError(grpc.StatusCode.INTERNAL, text)
        except asyncio.CancelledError:  # nobody is left, or the channel was closed
            ended = rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "the call was cancelled")
            raise
        except Exception as error:  # such as a message that is none: whoever waits must hear of it
            text = f"a chunk that is none of {len(party.queues)} samples': {type(error).__name__}: {error}"
            ended = rpc.RpcError(grpc.StatusCode.INTERNAL, text)
        finally:
            self._deal_end(party, ended, several)

    def _deal_end(self, party: _Party, ended: Told, several: bool) -> None:
        first, *others = party.queues
        if others and ended is None and not several:
            self.alone, ended = True, Alone()
            first.put_nowait(None)
        else:
            first.put_nowait(ended)
        for queue in others:
            queue.put_nowait(ended)


def _share(routes: Routes, party: _Party) -> None:
    """The prompt's rows, which come with the first sample alone, for the others; each has that of the last token, from
    which it draws, itself."""
    count = party.request.prompt_token_count - 1 - routes.first
    if count > 0 and len(party.queues) > 1:
        shared = packed(RouteShape.of(routes), unpacked(routes)[:count], routes.first)
        for queue in party.queues[1:]:
            queue.put_nowait(pb.GenerateResponse(routes=shared))
