"""How far a learner of several nodes is: what node 0 says of the group, and what each node says of itself.

    MEETING -> RUNNING -> ENDED -> MEETING of the next incarnation ...      node 0's word, one key
               RUNNING -> DONE                                              every rank ended well
    met, ended, refused                                                     each other node's word, a key each

Only node 0 decides. An incarnation runs on the nodes that have met for it and on no others; who was not there when it
began waits for the next. Pure: values of the run's bucket, and what follows from them.

Invariants (test names): no incarnation begins before every node has met for it; the cause of an end is the word that
says most, whoever said it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound="Said")


class State(enum.StrEnum):
    """Of the group."""

    MEETING = "meeting"
    RUNNING = "running"
    ENDED = "ended"
    DONE = "done"


KNOWN = 2
"""The weight of a rank that was killed: what weighs no more is a cause, and what weighs more may be a consequence."""


@dataclasses.dataclass(frozen=True)
class Words:
    """Why ranks ended: what their launcher said, its exit code, and its weight: the least is the cause of the rest."""

    text: str
    code: int
    weight: int

    @classmethod
    def of(cls, said: Any) -> Words | None:
        """As JSON has them; None for none. Raises TypeError."""
        return None if said is None else cls(**said)


@dataclasses.dataclass(frozen=True)
class Said:
    """A value of the bucket."""

    def value(self) -> bytes:
        """As bytes."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def of(cls: type[T], value: bytes) -> T:
        """Of bytes. Raises ValueError for what nobody of ours wrote."""
        try:
            return cls(**json.loads(value))
        except TypeError as error:
            raise ValueError(f"{value[:80]!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Group(Said):
    """Node 0's word. address: HOST:PORT where ranks meet; mark: what every node must find in the shared folder."""

    incarnation: int = 0
    state: State = State.ENDED
    address: str = ""
    mark: str = ""
    host: str = ""
    reason: str = ""
    code: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", State(self.state))


@dataclasses.dataclass(frozen=True)
class Node(Said):
    """One node's word. instance: its member in the run; met: the incarnation for which it is there; ended: that of
    which its ranks have ended, as `words` says; refused: why it cannot be a node of this learner."""

    instance: str
    host: str
    met: int = 0
    ended: int = 0
    words: Words | None = None
    refused: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.words, dict):
            object.__setattr__(self, "words", Words.of(self.words))


def missing(nodes: Mapping[int, Node], count: int, incarnation: int, alive: frozenset[str]) -> list[int]:
    """Which of the nodes 1 … count-1 are not there for an incarnation."""

    def there(node: Node | None) -> bool:
        return node is not None and node.met == incarnation and node.instance in alive and not node.refused

    return [rank for rank in range(1, count) if not there(nodes.get(rank))]


def refusal(nodes: Mapping[int, Node], incarnation: int, alive: frozenset[str]) -> str:
    """Why a node that was called for an incarnation cannot be one of it; empty where all can."""
    said = (node for node in nodes.values() if node.met == incarnation and node.instance in alive)
    return next((node.refused for node in said if node.refused), "")


def ended(nodes: Mapping[int, Node], incarnation: int) -> list[Words]:
    """What other nodes say of how their ranks of an incarnation ended."""
    return [node.words for node in nodes.values() if node.ended == incarnation and node.words is not None]


def gone(nodes: Mapping[int, Node], incarnation: int, alive: frozenset[str]) -> str:
    """Which node of an incarnation is there no more, and how; empty where all are."""
    for rank, node in sorted(nodes.items()):
        if node.instance not in alive:
            return f"node {rank} of the learner (on {node.host}) is not heard any more"
        if node.met != incarnation:
            return f"node {rank} of the learner (on {node.host}) was started again"
    return ""


def cause(said: Sequence[Words]) -> Words:
    """Of all that was said of one end, what began it."""
    return min(said, key=lambda words: words.weight)


def named(lacking: Sequence[int], nodes: Mapping[int, Node]) -> str:
    """The nodes that are awaited, for people."""
    known = {rank: f" (it was on {nodes[rank].host})" for rank in lacking if rank in nodes}
    return ", ".join(f"node {rank}{known.get(rank, '')}" for rank in lacking) + " of the learner"
