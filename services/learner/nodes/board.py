"""Where the nodes of a learner read and write their words: keys of the run's bucket.

NATS may be away for any time: every call is made again until it is answered. What node 0 decides is fenced by what it
decided before, so of two that take themselves for node 0 the later stays.

Invariant (test name): a node 0 that was replaced decides nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from penstock.bus import Bucket, Bus, BusError, KeyConflict, RunNames
from penstock.telemetry.waits import waiting
from services.learner.nodes.standing import Group, Node

T = TypeVar("T")
logger = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
"""How often somebody looks, and tries again: who takes part in a run hears no key of it but the members'."""


class Overtaken(RuntimeError):
    """Another process is node 0 since."""


class Board:
    """Of one learner with so many nodes."""

    def __init__(self, bus: Bus, names: RunNames, count: int) -> None:
        self._bucket, self._names, self._count = Bucket(bus, names), names, count
        self._revision = 0

    async def group(self) -> Group:
        """Node 0's last word; none of an incarnation where it has said nothing."""
        held = await _again(lambda: self._bucket.get(self._names.learner_group_key))
        return Group.of(held.value) if held is not None else Group()

    async def nodes(self, first: int = 1) -> Mapping[int, Node]:
        """The last words of the nodes from `first` on, by number."""
        found = {}
        for rank in range(first, self._count):
            key = self._names.learner_node_key(rank)
            held = await _again(lambda key=key: self._bucket.get(key))  # type: ignore[misc]
            if held is not None:
                found[rank] = Node.of(held.value)
        return found

    async def tell(self, rank: int, node: Node) -> None:
        """One node's word of itself."""
        await _again(lambda: self._bucket.put(self._names.learner_node_key(rank), node.value()))

    async def claim(self, rank: int, node: Node, seen: Node | None) -> bool:
        """Takes a number whose holder was `seen`; whether nobody else has taken it meanwhile."""
        key = self._names.learner_node_key(rank)
        stored = await _again(lambda: self._bucket.last(key))
        if stored is not None and stored.value != (b"" if seen is None else seen.value()):
            return stored.value == node.value()
        revision = stored.revision if stored is not None else 0
        try:
            await _again(lambda: self._bucket.update(key, node.value(), revision))
        except KeyConflict:
            return False
        return True

    async def take(self) -> Group:
        """For node 0: the last word, behind which it decides from now on."""
        stored = await _again(lambda: self._bucket.last(self._names.learner_group_key))
        self._revision = stored.revision if stored is not None else 0
        return Group.of(stored.value) if stored is not None and stored.value else Group()

    async def decide(self, group: Group) -> None:
        """Node 0's next word. Raises Overtaken."""
        key, value = self._names.learner_group_key, group.value()
        try:
            self._revision = await _again(lambda: self._bucket.update(key, value, self._revision))
        except KeyConflict as conflict:
            stored = await _again(lambda: self._bucket.last(key))
            if stored is None or stored.value != value:  # else it was this one's, and the answer was lost
                raise Overtaken("another process is node 0 of the learner since; this one ends") from conflict
            self._revision = stored.revision


async def _again(call: Callable[[], Awaitable[T]]) -> T:
    """A call's answer, however long NATS is away. Raises KeyConflict."""
    while True:
        try:
            return await call()
        except KeyConflict:
            raise
        except BusError as error:
            logger.info("asking NATS again: %s", error)
            with waiting("NATS to answer", on="nats", deadline=None):
                await asyncio.sleep(LOOK_SECONDS)  # a pause between attempts
