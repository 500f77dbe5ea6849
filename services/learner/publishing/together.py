"""How ranks publish one version together, beside the training: what they tell each other, in a group of its own.

    every rank  Offer: what it has ──► rank 0: the manifest, begun
    rank 0      Place ──► every rank puts its part; how that went ──► rank 0: committed, or begun again
    rank 0      Over: what became of it ──► every rank remembers that, or not

A group is used by one thread of each rank at once, in this order, so its collectives meet. Who dies is seen by the
others as an error of their next collective.
"""

import asyncio
import dataclasses
import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
import torch
import torch.distributed as dist
from torch import Tensor

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.telemetry.waits import waiting
from services.learner.interface.telling import told, told_first
from services.learner.publishing.differences import Differences
from services.learner.publishing.parts import PUSH_SECONDS, Part, Place
from services.learner.publishing.writing import Piece

T = TypeVar("T")
TOGETHER_SECONDS = 3 * PUSH_SECONDS
"""For which one rank waits for the others in the middle of a version: longer than all calls of an attempt."""
UNREACHED = "UNREACHED"
"""The reason of a rank that has no way to weight_sync: rank 0 puts its part too then."""
Said = dict[str, Any]
"""A message as plain values."""


@dataclasses.dataclass(frozen=True)
class Over:
    """What became of a version. digest: in hex. took: whether weight_sync has it of this learner; whole: pushed so;
    wanted: whether anybody has use for differences.
    """

    epoch: int = 0
    step: int = 0
    digest: str = ""
    took: bool = False
    whole: bool = True
    wanted: bool = True


class Ranks(Protocol):
    """Rank 0's side."""

    async def offered(self, own: Said) -> list[Said]:
        """What every rank has, of which this is rank 0's own."""
        ...

    async def putting(self, place: Place) -> None:
        """Has the others put their parts there."""
        ...

    async def went(self, own: Said) -> list[Said]:
        """How that went on every rank."""
        ...

    async def over(self, what: Over) -> None:
        """The version is over for all of them."""
        ...


class Alone:
    """A learner of one rank."""

    async def offered(self, own: Said) -> list[Said]:
        return [own]

    async def putting(self, place: Place) -> None:
        pass

    async def went(self, own: Said) -> list[Said]:
        return [own]

    async def over(self, what: Over) -> None:
        pass


class Together:
    """Ranks of torch's group. The constructor is a collective.

    Invariant (test name): wherever rank 0 fails or is cancelled, it hears what the others are about to say before it
    tells them anything else.
    """

    def __init__(self) -> None:
        timeout = datetime.timedelta(seconds=TOGETHER_SECONDS)
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._thread = ThreadPoolExecutor(1, "publishing")
        self._broken: Exception | None = None
        self._due = True  # whether the others are about to say something: on rank 0, in its thread

    async def offered(self, own: Said) -> list[Said]:
        return await self._do(partial(self._heard, own))

    async def putting(self, place: Place) -> None:
        await self._do(partial(self._told, {"place": dataclasses.asdict(place)}))

    async def went(self, own: Said) -> list[Said]:
        return await self._do(partial(self._heard, own))

    async def over(self, what: Over) -> None:
        await self._do(partial(self._told, {"over": dataclasses.asdict(what)}))

    def _heard(self, own: Said) -> list[Said]:
        found = self.gathered(own)
        self._due = False
        return found

    def _told(self, said: Said) -> None:
        """What the others answer, or behind a version begin the next one with."""
        if self._due:
            self._heard(outcome(False))
        self.told(said)
        self._due = True

    def gathered(self, value: Said) -> list[Said]:
        """Every rank's on rank 0, nothing elsewhere; a collective, as `told`."""
        return told_first(value, self._group)

    def told(self, value: Said | None) -> Said:
        """What rank 0 says, on every rank."""
        said: Said = told(value, group=self._group)
        return said

    async def _do(self, collective: Callable[[], T]) -> T:
        """Even where nobody waits for it any more: the others do. Behind one that failed half-way none would meet."""

        def done() -> T:
            if self._broken is not None:
                raise RuntimeError(f"the ranks are out of step since: {self._broken}") from self._broken
            try:
                return collective()
            except Exception as error:
                self._broken = error
                raise

        with waiting("the other ranks", on="learner", deadline=TOGETHER_SECONDS):
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, done))


def ranks() -> Ranks:
    """Those of the world; a collective."""
    return Together() if dist.get_world_size() > 1 else Alone()


def offer(part: Part, kept: Differences) -> Said:
    """What a rank has of the next version: a row for each tensor, and what makes it of the one before."""
    difference = kept.to(part)
    made = None if difference is None else [packed(memoryview(data)) for data in difference]
    return {"rows": [list(row) for row in part.rows()], "difference": made}


def packed(data: memoryview) -> Tensor:
    """Bytes as what ranks tell each other fastest."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def unpacked(said: Tensor) -> memoryview:
    """What was `packed`."""
    return memoryview(said.numpy())


def outcome(written: bool, pieces: Sequence[Piece] = ()) -> Said:
    """A part was put, into weight_sync's file or as a stream; or these pieces are for rank 0 to put."""
    return {"written": written, "pieces": [(offset, packed(data)) for offset, data in pieces]}


def failure(error: Exception) -> Said:
    """A rank could not do its part."""
    if isinstance(error, rpc.RpcError):
        return {"code": error.code.name, "text": error.message, "reason": error.reason}
    return {"code": grpc.StatusCode.UNKNOWN.name, "text": f"{type(error).__name__}: {error}", "reason": ""}


def checked(found: list[Said]) -> list[Said]:
    """What all ranks said. Raises rpc.RpcError where one of them could not do its part."""
    for rank, said in enumerate(found):
        if "code" in said:
            code = grpc.StatusCode[said["code"]]
            raise rpc.RpcError(code, f"rank {rank}: {said['text']}", reason=said["reason"])
    return found


def remember(kept: Differences, part: Part, over: Over) -> None:
    """Takes note of what became of a version, as every other rank does."""
    kept.wanted = over.wanted
    if over.took:
        kept.took(
            PolicyVersion(epoch=over.epoch, step=over.step, digest=bytes.fromhex(over.digest)), part, whole=over.whole
        )
    else:
        kept.forget()
