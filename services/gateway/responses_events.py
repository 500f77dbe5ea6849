"""A streamed `/v1/responses`: an answer in pieces as it is drawn, as the events of that API.

    created in_progress  item.added part.added delta… text.done part.done item.done  item.added arguments…  completed

Text is sent as `streaming` has it, calls when the answer is whole. An answer that fails while it is drawn ends with an
`error` event; what is refused never begins a stream.

Invariants (test names): every event is one of the official client's types, in their order; the last one has the answer
that is given whole; a stream that is left leaves no trace.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from services.gateway import responses_api
from services.gateway.errors import CallRefused, KeyUnknown
from services.gateway.session import Admitted, Session
from services.gateway.streaming import Pieces, event

LAST = {"completed": "response.completed", "incomplete": "response.incomplete"}
"""By status of the answer: the event that ends the stream."""


class _Message:
    """The events of the answer's text, which is the first item of the output: item, part, and pieces of it."""

    def __init__(self, answer: str) -> None:
        self._at = {"item_id": responses_api.message_id(answer), "output_index": 0, "content_index": 0}
        self.begun = False

    def more(self, piece: str) -> Iterator[dict[str, Any]]:
        """A piece of the text; the first one begins the item."""
        if not self.begun:
            self.begun = True
            item = {"type": "message", "id": self._at["item_id"], "status": "in_progress", "role": "assistant"}
            yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}}
            yield {"type": "response.content_part.added", **self._at, "part": responses_api.part("")}
        if piece:
            yield {"type": "response.output_text.delta", **self._at, "delta": piece, "logprobs": []}

    def done(self, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The end of the item, as the whole answer has it."""
        (part,) = item["content"]
        yield {"type": "response.output_text.done", **self._at, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **self._at, "part": part}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _call(item: Mapping[str, Any], index: int) -> Iterator[dict[str, Any]]:
    """The events of one call of a function."""
    at = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    said = item["arguments"]
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    yield {"type": "response.function_call_arguments.delta", **at, "delta": said}
    yield {"type": "response.function_call_arguments.done", **at, "name": item["name"], "arguments": said}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


async def _events(
    session: Session, admitted: Admitted, body: Mapping[str, Any], model: str
) -> AsyncGenerator[dict[str, Any]]:
    """The events without their numbers. Raises CallRefused."""
    chat, call = session.means.chat, admitted.call
    pieces = Pieces(call, chat, session.means.environment.special_tokens)
    text = _Message(call.id)
    task = session.begin(admitted, pieces.heard)
    try:
        begun = responses_api.begun(call.id, body, model)
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        async for piece in pieces.more(task):
            for each in text.more(piece):
                yield each
        if task.cancelled():
            raise KeyUnknown("the sample has ended")
        answer = task.result()
        whole = responses_api.response(answer, body, model, chat)
        for index, item in enumerate(whole["output"]):
            if item["type"] == "message":
                for each in (*text.more(answer.message.content[len(pieces.sent) :]), *text.done(item)):
                    yield each
            else:
                for each in _call(item, index):
                    yield each
        yield {"type": LAST[whole["status"]], "response": {**whole, "created_at": begun["created_at"]}}
    finally:
        task.cancel()


async def response_events(
    session: Session, admitted: Admitted, body: Mapping[str, Any], model: str
) -> AsyncGenerator[str, None]:
    """A streamed `response`; whoever stops reading ends the call."""
    numbers = itertools.count()
    events = _events(session, admitted, body, model)
    try:
        async for each in events:
            yield _said(each, next(numbers))
    except CallRefused as refused:  # the answer has begun: an error is an event of it
        error = {"type": "error", "code": refused.code, "message": str(refused), "param": refused.param}
        yield _said(error, next(numbers))
    finally:
        await events.aclose()


def _said(value: Mapping[str, Any], number: int) -> str:
    return f"event: {value['type']}\n{event({**value, 'sequence_number': number})}"
