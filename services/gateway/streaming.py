"""An answer in pieces as it is drawn, as server-sent events.

Text is sent when no later token can change it: not half a character, not what may be the beginning of a stop text, and
nothing where tools are offered, since what is drawn may be a call. What was sent is then exactly the answer's text.

Invariant (test name): the pieces of a stream are the answer that is given whole; a stream that is cut leaves no trace.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from penstock.chat import ChatTokenizer
from services.gateway import chat_api
from services.gateway.errors import CallRefused, KeyUnknown
from services.gateway.session import Admitted, Answer, Call, Session, before_stop


def event(value: Mapping[str, Any]) -> str:
    """A value as a server-sent event."""
    return f"data: {json.dumps(value)}\n\n"


def settled(text: str, stops: Sequence[str]) -> str:
    """What of a text no later token can take back."""
    text = text.rstrip("\ufffd")
    if (ended := before_stop(text, stops)) != text:
        return ended
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - held]


class Pieces:
    """The text of one answer as it comes."""

    def __init__(self, call: Call, chat: ChatTokenizer, control_tokens: bool = False) -> None:
        self._call, self._chat, self._control = call, chat, control_tokens
        self._new = asyncio.Event()
        self._text = self.sent = ""

    def heard(self, tokens: Sequence[int]) -> None:
        """There are more tokens."""
        if not self._call.tools:
            self._text = settled(self._chat.text(tokens, control_tokens=self._control), self._call.stops)
            self._new.set()

    async def more(self, task: asyncio.Task[Answer]) -> AsyncGenerator[str, None]:
        """Pieces of text until the task ends."""
        while not task.done():
            waiting = asyncio.create_task(self._new.wait())
            try:
                await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            self._new.clear()
            if self._text.startswith(self.sent) and len(self._text) > len(self.sent):
                piece, self.sent = self._text[len(self.sent) :], self._text
                yield piece


async def chat_events(
    session: Session, admitted: Admitted, body: Mapping[str, Any], model: str
) -> AsyncGenerator[str, None]:
    """A streamed `chat.completion`; whoever stops reading ends the call."""
    chat, call = session.means.chat, admitted.call
    pieces = Pieces(call, chat, session.means.environment.special_tokens)
    begun = chat_api.head("chat.completion.chunk", "chatcmpl", model, call.id)
    task = session.begin(admitted, pieces.heard)
    try:
        yield event(chat_api.delta(begun, {"role": "assistant", "content": ""}))
        async for piece in pieces.more(task):
            yield event(chat_api.delta(begun, {"content": piece}))
        if task.cancelled():
            raise KeyUnknown("the sample has ended")
        answer = task.result()
        for said in chat_api.last_deltas(answer, body, chat, pieces.sent):
            yield event(chat_api.delta(begun, said))
        last = chat_api.delta(begun, {}, answer.finish)
        if body.get("logprobs"):
            last["choices"][0]["logprobs"] = {"content": chat_api.logprobs(answer, chat), "refusal": None}
        yield event(last)
        options = body.get("stream_options")
        if isinstance(options, Mapping) and options.get("include_usage"):
            yield event({**begun, "choices": [], "usage": chat_api.usage(answer)})
        yield "data: [DONE]\n\n"
    except CallRefused as refused:  # the answer has begun: an error is an event of it
        yield event(json.loads(bytes(refused.response().body)))
    finally:
        task.cancel()
