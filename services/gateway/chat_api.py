"""`/v1/chat/completions`: a request as a call, and an answer as OpenAI's objects. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message
from services.gateway import sampling
from services.gateway.errors import CallRefused, Unsupported
from services.gateway.session import Answer, Call

ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def call_of(body: Mapping[str, Any]) -> Call:
    """What a request asks for. Raises CallRefused."""
    sampling.check_single(body)
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise CallRefused("messages must be a list of at least one message", "messages")
    messages = [_message(each, f"messages[{i}]") for i, each in enumerate(given)]
    if messages[-1].role == "assistant":
        raise Unsupported("the last message is the assistant's: an answer cannot be begun for the model", "messages")
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        raise CallRefused("tools must be a list of objects", "tools")
    offered = [] if body.get("tool_choice") == "none" else tools
    if body.get("top_logprobs"):
        raise Unsupported("top_logprobs: only what was drawn has log-probabilities here", "top_logprobs")
    return Call(messages, offered, sampling.most_tokens(body), sampling.stops(body))


def _message(given: Any, where: str) -> Message:
    if not isinstance(given, Mapping) or given.get("role") not in ROLES:
        raise CallRefused(f"{where}.role must be one of {', '.join(ROLES)}", where)
    content = given.get("content")
    message = Message(role=ROLES[given["role"]], content=_text(content, where))
    for field in ("tool_call_id", "name"):
        value = given.get(field)
        if value is not None and not isinstance(value, str):
            raise CallRefused(f"{where}.{field} must be a text", where)
        setattr(message, field, value or "")
    for call in given.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise CallRefused(f"{where}.tool_calls must hold functions with a name", where)
        arguments = function.get("arguments") or "{}"
        message.tool_calls.add(
            id=str(call.get("id") or ""),
            name=function["name"],
            arguments_json=arguments if isinstance(arguments, str) else json.dumps(arguments),
        )
    return message


def _text(content: Any, where: str) -> str:
    """The text of a message's content, which may come in parts."""
    parts = [] if content is None else [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise CallRefused(f"{where}.content must be a text, or a list of parts", where)
    found = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text").endswith("text") else part
        if not isinstance(text, str):
            raise Unsupported(f"{where}.content: only parts of text are read", where)
        found.append(text.encode(errors="replace").decode())  # half a surrogate pair, which JSON can bring in
    return "".join(found)


def head(kind: str, prefix: str, model: str, answer: str) -> dict[str, Any]:
    """What every object of the API begins with. answer: the id of the answer, behind the kind's own prefix."""
    return {"id": f"{prefix}-{answer}", "object": kind, "created": int(time.time()), "model": model}


def completion(answer: Answer, body: Mapping[str, Any], model: str, chat: ChatTokenizer) -> dict[str, Any]:
    """The answer as a `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.message.content, "refusal": None}
    if answer.message.tool_calls:
        message |= {"content": answer.message.content or None, "tool_calls": tool_calls(answer)}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": logprobs(answer, chat), "refusal": None}
    return {**head("chat.completion", "chatcmpl", model, answer.id), "choices": [choice], "usage": usage(answer)}


def tool_calls(answer: Answer) -> list[dict[str, Any]]:
    """The calls of an answer."""
    return [
        {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments_json}}
        for each in answer.message.tool_calls
    ]


def usage(answer: Answer) -> dict[str, int]:
    """Tokens of the prompt and of the answer."""
    drawn = len(answer.tokens)
    total = answer.prompt_tokens + drawn
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": drawn, "total_tokens": total}


def logprobs(answer: Answer, chat: ChatTokenizer) -> list[dict[str, Any]]:
    """Of every drawn token, the one that ends the turn included: its log-probability as the engine drew it."""
    found = []
    for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
        text = chat.named(token)
        found.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
    return found


def delta(begun: Mapping[str, Any], said: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A piece of a streamed answer."""
    choice = {"index": 0, "delta": dict(said), "finish_reason": finish, "logprobs": None}
    return {**begun, "object": "chat.completion.chunk", "choices": [choice]}


def last_deltas(answer: Answer, body: Mapping[str, Any], chat: ChatTokenizer, sent: str) -> Sequence[dict[str, Any]]:
    """What is left to be said when `sent` has been: text, then calls."""
    left: list[dict[str, Any]] = []
    if rest := answer.message.content[len(sent) :]:
        left.append({"content": rest})
    if answer.message.tool_calls:
        left.append({"tool_calls": [{"index": i, **each} for i, each in enumerate(tool_calls(answer))]})
    return left
