"""The life of one node of a learner of several: it finds the others in the run, and keeps its ranks in their group.

    claim a number -> meet for an incarnation -> ranks run -> one of them is lost, anywhere -> meet again
                                                          -> done, or none may start again -> end

The nodes speak by the run's bucket alone (`standing`), and node 0 decides. What is lost is named by whoever saw it
best; all ranks of an incarnation end with it, and the next goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
import platform
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from penstock.membership import GONE_SECONDS
from penstock.process import Process
from penstock.system import exits
from penstock.telemetry.waits import waiting
from services.learner.nodes import shared
from services.learner.nodes.board import LOOK_SECONDS, Board, Overtaken
from services.learner.nodes.claims import free
from services.learner.nodes.ranks import Ranks, again
from services.learner.nodes.standing import (
    KNOWN,
    Group,
    Node,
    State,
    Words,
    cause,
    ended,
    gone,
    missing,
    named,
    refusal,
)
from services.learner.ranks.meeting import Meeting

logger = logging.getLogger(__name__)
KIND = "learner_node"
"""As members of the run have it."""
SAID_SECONDS = 15.0
"""How long node 0 hears the others out before it says why a group ended: longer than a launcher takes to end its ranks,
before which it says nothing."""
SHORT_SECONDS, SHORT_LIVES = 20.0, 5
"""So many groups in a row that did not live longer end the learner."""


class NodeRefused(RuntimeError):
    """This learner cannot be; the text says why. Starting it again would end the same way."""


class RunIsOver(RuntimeError):
    """There is nothing to meet for any more."""


class NodeLife:
    """One node. command: what starts its ranks; rank: the number it is told; host: its address, where node 0 listens
    for ranks; ends: whether it ends by itself where the run is over before its ranks run."""

    def __init__(
        self,
        process: Process,
        command: Sequence[str],
        count: int,
        checkpoints: pathlib.Path,
        rejoin_seconds: float,
        host: str,
        rank: int | None = None,
        ends: bool = True,
    ) -> None:
        self._process, self._part, self._command = process, process.joined, command
        self._count, self._checkpoints, self._rejoin, self._host = count, checkpoints, rejoin_seconds, host
        self._rank = rank if rank is not None else -1
        self._board = Board(self._part.bus, self._part.names, count)
        self._own = Node(process.name, platform.node())
        self._short, self._ends = 0, ends
        self._met = asyncio.Event()

    async def ready(self) -> None:
        """Waits until its ranks have run."""
        await self._met.wait()

    async def run(self) -> None:
        """Until the learner is done, or cannot go on: then the process ends with that exit code."""
        try:
            await self._claim()
            while True:
                words = await (self._leading() if self._rank == 0 else self._following())
                if not again(words.code):
                    break
                logger.warning("the learner's ranks ended: %s; its nodes meet again", words.text)
        except asyncio.CancelledError:  # it was asked to end, and the learner is not done
            self._process.code = exits.FAILED
            raise
        except (NodeRefused, Overtaken) as refused:
            words = Words(str(refused), exits.BAD_INPUT, 0)
        except RunIsOver:
            over = self._part.watcher.over
            words = Words(f"the run is over ({over})", exits.FAILED if over == "failed" else exits.DONE, 0)
        if words.code != exits.DONE:
            logger.error("cannot go on: %s", words.text)
        self._process.code = words.code
        self._process.server.stop()

    async def _claim(self) -> None:
        """Takes a number, or keeps the one it is told."""
        known = asyncio.get_running_loop().time() + GONE_SECONDS  # who is alive is heard by then
        while self._rank < 0:
            held, alive = await self._board.nodes(0), self._alive()
            if asyncio.get_running_loop().time() < known:
                alive |= {node.instance for node in held.values()}
            rank = free(held, self._count, self._own.instance, alive)
            if rank is None:
                who = ", ".join(node.instance for node in held.values())
                with waiting(f"a node of the learner to be lost: {who} are all it has", on="the run", deadline=None):
                    await self._pause()
            elif await self._board.claim(rank, self._own, held.get(rank)):
                self._rank = rank
        logger.info("node %d of %d of the learner", self._rank, self._count)
        await self._tell()

    # ---- node 0

    async def _leading(self) -> Words:
        """One incarnation, from its meeting to its end."""
        before = await self._board.take()
        try:
            listener = socket.create_server((self._host, 0), family=_family(self._host), backlog=1024)
        except OSError as error:
            raise NodeRefused(f"node 0 of the learner cannot listen on {self._host}: {error}") from error
        try:
            port = listener.getsockname()[1]
            host = f"[{self._host}]" if ":" in self._host else self._host
            group = Group(before.incarnation + 1, State.MEETING, f"{host}:{port}", uuid.uuid4().hex, self._own.host)
            try:
                await asyncio.to_thread(shared.leave_mark, self._checkpoints, group.mark)
            except OSError as error:
                raise NodeRefused(f"the learner's folder cannot be written: {error}") from error
            await self._board.decide(group)
            await self._until_met(group)
            await self._board.decide(replace(group, state=State.RUNNING))
            self._met.set()
            ranks = await Ranks.start(self._command, self._meeting(group), listener.fileno())
        finally:
            listener.close()
        began = asyncio.get_running_loop().time()
        try:
            words = await _first(ranks, self._lost(group))
        finally:
            await ranks.stop()
        lived = asyncio.get_running_loop().time() - began
        self._short = self._short + 1 if lived < SHORT_SECONDS else 0
        if again(words.code):
            words = cause([words, *await self._heard_out(group, words)])
            if self._short >= SHORT_LIVES:
                words = Words(f"{self._short} times in a row: {words.text}", exits.BAD_INPUT, 0)
        state = State.DONE if words.code == exits.DONE else State.ENDED
        await self._board.decide(replace(group, state=state, reason=words.text, code=words.code))
        return words

    async def _until_met(self, group: Group) -> None:
        """Waits, listed by their names, for the other nodes. Raises NodeRefused."""
        lacking = list(range(1, self._count))
        while lacking:
            nodes, awaited = await self._board.nodes(), lacking
            with waiting(named(awaited, nodes), on=KIND, deadline=self._rejoin):
                while lacking == awaited:
                    nodes = await self._board.nodes()
                    lacking = missing(nodes, self._count, group.incarnation, self._alive())
                    if why := refusal(nodes, group.incarnation, self._alive()):
                        await self._board.decide(replace(group, state=State.ENDED, reason=why, code=exits.BAD_INPUT))
                        raise NodeRefused(why)
                    if lacking == awaited:
                        await self._pause()

    async def _lost(self, group: Group) -> Words:
        """Waits until another node says that its ranks have ended, or is not heard any more."""
        while True:
            nodes = await self._board.nodes()
            if said := ended(nodes, group.incarnation):
                return cause(said)
            if why := gone(nodes, group.incarnation, self._alive()):
                return Words(why, exits.FAILED, 1)
            await _moment()

    async def _heard_out(self, group: Group, words: Words) -> list[Words]:
        """What the others say of an end; where this node's word may be a consequence alone, for some seconds."""
        until = asyncio.get_running_loop().time() + (0.0 if words.weight <= KNOWN else SAID_SECONDS)
        with waiting("what other nodes of the learner say of the end", on=KIND, deadline=SAID_SECONDS):
            while len(said := ended(await self._board.nodes(), group.incarnation)) < self._count - 1:
                if asyncio.get_running_loop().time() >= until:
                    break
                await _moment()
        return said

    # ---- the others

    async def _following(self) -> Words:
        """One incarnation, from its meeting to its end, as this node has it."""
        group = await self._until_called()
        if not await asyncio.to_thread(shared.find_mark, self._checkpoints, group.mark):
            if (now := await self._board.group()) != group:
                return _as_said(now)  # its node 0 was replaced, and the mark with it
            why = (
                f"node {self._rank} of the learner (on {self._own.host}) does not see what node 0 (on {group.host}) "
                f"writes in {self._checkpoints.absolute()}: its nodes must share that folder"
            )
            await self._tell(met=group.incarnation, refused=why)
            raise NodeRefused(why)
        await self._tell(met=group.incarnation)
        with waiting(f"node 0 of the learner (on {group.host}) to begin", on=KIND, deadline=self._rejoin):
            now = await self._until_other(group, self._pause)
        if (now.incarnation, now.state) != (group.incarnation, State.RUNNING):
            return _as_said(now)
        self._met.set()
        ranks = await Ranks.start(self._command, self._meeting(group))
        try:
            words = await _first(ranks, self._called_off(now))
        finally:
            await ranks.stop()
        if words.code != exits.DONE:
            await self._tell(ended=group.incarnation, words=words)
            if not again(words.code):
                return words
        with waiting("what node 0 of the learner says of the end", on=KIND, deadline=self._rejoin):
            return _as_said(await self._until_other(now, self._pause))

    async def _until_called(self) -> Group:
        """Waits until node 0 calls for an incarnation of which this one has not been."""
        with waiting("node 0 of the learner", on=KIND, deadline=self._rejoin):
            while (group := await self._board.group()).state != State.MEETING or group.incarnation <= self._own.met:
                await self._pause()
        return group

    async def _until_other(self, group: Group, pause: Callable[[], Awaitable[None]]) -> Group:
        """Waits until node 0 says something else than this of the group. Raises what `pause` does."""
        while (now := await self._board.group()) == group:
            await pause()
        return now

    async def _called_off(self, group: Group) -> Words:
        """Waits until node 0 says that an incarnation is over, or another has begun."""
        return _as_said(await self._until_other(group, _moment))

    async def _tell(self, **changes: object) -> None:
        """Says something of this node."""
        self._own = replace(self._own, **changes)  # type: ignore[arg-type]
        await self._board.tell(self._rank, self._own)

    # ---- both

    async def _pause(self) -> None:
        """A moment of what is awaited before ranks run. Raises RunIsOver."""
        await _moment()
        if self._ends and self._part.watcher.over:
            raise RunIsOver

    def _meeting(self, group: Group) -> Meeting:
        return Meeting(self._rank, self._count, group.address, self._host)

    def _alive(self) -> frozenset[str]:
        """Instances that are heard."""
        return frozenset(member.instance for member in self._part.watcher.view.of(KIND))


async def _first(ranks: Ranks, other: Coroutine[Any, Any, Words]) -> Words:
    """How this node's ranks ended, or what came first elsewhere."""
    own, elsewhere = asyncio.create_task(ranks.ended()), asyncio.create_task(other)
    try:
        with waiting("the end of the learner's ranks", on="learner", deadline=None, idle=True):
            await asyncio.wait({own, elsewhere}, return_when=asyncio.FIRST_COMPLETED)
        return own.result() if own.done() else elsewhere.result()
    finally:
        for task in (own, elsewhere):
            task.cancel()
        await asyncio.gather(own, elsewhere, return_exceptions=True)


async def _moment() -> None:
    """Until it is worth looking again: nobody announces a key of the bucket."""
    await asyncio.sleep(LOOK_SECONDS)


def _as_said(group: Group) -> Words:
    """What node 0 says of an end."""
    if group.state == State.DONE:
        return Words("done", exits.DONE, 0)
    code = exits.FAILED if group.state != State.ENDED or again(group.code) else group.code
    return Words(group.reason or "node 0 of the learner was started again", code, 4)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
