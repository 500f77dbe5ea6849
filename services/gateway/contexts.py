"""The contexts of one session, token by token as they were drawn.

    user                     -> a1      a context begins
    user a1 tool             -> a2      goes on: a1 stays as it was drawn, what is new is rendered
    user a1 other            -> a3      a branch of it: begins with what was drawn, which is not trained again
    user a1' tool            -> a4      a1 was edited: nothing of it was drawn, the whole is rendered anew

A request is recognised by its messages: each answer is remembered under all that led to it. Nothing is ever decoded
and encoded again. Pure.

Invariants (test names): every trained token is one that an engine sent, in the very place where it was drawn; a call
that is not committed leaves no trace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.chat import ChatTokenizer, TemplateError
from penstock.common.v1.common_pb2 import Message
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectories.branches import merged


@dataclass(frozen=True)
class Begun:
    """A call in progress. builder: its context, for the engine to go on with; parent: the one that it begins with.
    history: what it answers, a text or the digest of messages."""

    builder: TrajectoryBuilder
    parent: TrajectoryBuilder | None
    history: bytes | str


class Contexts:
    """Those of one session. routes: whether those of a mixture are recorded."""

    def __init__(self, chat: ChatTokenizer, routes: bool = False) -> None:
        self._chat, self._routes = chat, routes
        self._answers: dict[bytes, TrajectoryBuilder] = {}
        self._texts: dict[str, TrajectoryBuilder] = {}
        self._ends: list[TrajectoryBuilder] = []
        self._drawn: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def begin(self, messages: Sequence[Message], tools: Sequence[Any]) -> Begun:
        """The context of a call with these messages. Raises TemplateError for what the template cannot say."""
        digests = _digests(messages, tools)
        for count in range(len(messages) - 1, 0, -1):
            parent = self._answers.get(digests[count])
            if parent is None or messages[count - 1].role != "assistant":
                continue
            try:
                new = self._chat.after_turn(
                    messages[count:], last=parent.tokens[-1], history=messages[: count - 1], tools=tools
                )
            except TemplateError:  # it says such turns only as part of a whole
                continue
            builder = parent.copy()
            builder.context(messages[count].role, new)
            return Begun(builder, parent, digests[-1])
        builder = TrajectoryBuilder(self._routes)
        builder.context("user", self._chat.render(messages, tools=tools))
        return Begun(builder, None, digests[-1])

    def begin_text(self, prompt: str) -> Begun:
        """The context of a text that the model is to go on with; one that begins with an answered text goes on from
        the tokens of that."""
        known = max((each for each in self._texts if prompt.startswith(each) and each != prompt), key=len, default="")
        parent = self._texts.get(known)
        builder = TrajectoryBuilder(self._routes) if parent is None else parent.copy()
        builder.context("user", self._chat.plain(prompt[len(known) :]))
        return Begun(builder, parent, prompt)

    def commit(self, begun: Begun, said: Message, answer: str, text: str) -> None:
        """The call was answered with `said`, by that id: what was drawn belongs to the sample. text: all that was
        drawn, a stop text too: a text that is sent goes on from what was drawn where it has all of that."""
        at = next((i for i, each in enumerate(self._ends) if each is begun.parent), None)
        builder = begun.builder
        if at is not None:
            self._ends[at] = builder
        else:
            builder = builder.given(0 if begun.parent is None else len(begun.parent.tokens))
            self._ends.append(builder)
        if isinstance(begun.history, str):
            self._texts[begun.history + text] = builder
        else:
            self._answers[_digest(begun.history, said)] = builder
        self._drawn[answer] = list(builder.tokens)

    def whole(self) -> list[TrajectoryBuilder]:
        """The sample's contexts, the main one first."""
        return merged(self._ends)

    def places(self, whole: Sequence[TrajectoryBuilder]) -> dict[str, int]:
        """In which of the contexts each answer is trained, by its id."""
        found: dict[str, int] = {}
        for answer, tokens in self._drawn.items():
            found[answer] = next(i for i, each in enumerate(whole) if each.trains(tokens))
        return found


def _digests(messages: Sequence[Message], tools: Sequence[Any]) -> list[bytes]:
    """Of the first 0, 1, 2 … messages, with the tools that are offered."""
    found = [hashlib.sha256(json.dumps(tools, sort_keys=True).encode()).digest()]
    for message in messages:
        found.append(_digest(found[-1], message))
    return found


def _digest(before: bytes, message: Message) -> bytes:
    """Of a message behind others; how a client writes the JSON of a call's arguments makes no difference."""
    plain = Message(role=message.role, content=message.content)
    plain.tool_call_id, plain.name = message.tool_call_id, message.name
    for call in message.tool_calls:
        plain.tool_calls.add(id=call.id, name=call.name, arguments_json=_canonical(call.arguments_json))
    return hashlib.sha256(before + plain.SerializeToString(deterministic=True)).digest()


def _canonical(text: str) -> str:
    try:
        return json.dumps(json.loads(text or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        return text
