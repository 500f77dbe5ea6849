"""`/v1/responses`: the part of it that agents need, as a call, and an answer as its objects. Pure.

A conversation comes as a list of items: messages, calls of functions, and what those gave. What one answer of the model
was comes back as several of them, and is put together again, so that it is recognised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.chat import ChatTokenizer
from services.gateway import chat_api, sampling
from services.gateway.errors import CallRefused, Unsupported
from services.gateway.session import Answer, Call

UNSUPPORTED = ("previous_response_id", "conversation", "prompt", "background")
"""What would need a memory of its own."""


def call_of(body: Mapping[str, Any]) -> Call:
    """What a request asks for. Raises CallRefused."""
    for name in UNSUPPORTED:
        if body.get(name):
            raise Unsupported(f"{name}: is not here; send the whole conversation as input", name)
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items or not all(isinstance(each, Mapping) for each in items):
        raise CallRefused("input must be a text, or a list of at least one item", "input")
    messages = list(_messages(items))
    if instructions := body.get("instructions"):
        messages.insert(0, {"role": "system", "content": instructions})
    tools = [_tool(each) for each in body.get("tools") or []]
    plain = {**body, "messages": messages, "tools": tools}
    plain["max_tokens"] = body.get("max_output_tokens")
    return chat_api.call_of(plain)


def _messages(items: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The items as chat messages; calls belong to the answer in front of them."""
    held: dict[str, Any] | None = None
    for i, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "function_call":
            held = held or {"role": "assistant", "content": ""}
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            held.setdefault("tool_calls", []).append({"id": item.get("call_id"), "function": function})
            continue
        if kind == "reasoning":  # of another model: this one says all that it draws
            continue
        if held is not None:
            yield held
            held = None
        if kind == "function_call_output":
            yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
        elif kind != "message":
            raise Unsupported(f"input[{i}]: items of type {kind!r:.40} are not read", "input")
        elif item.get("role") == "assistant":
            held = {"role": "assistant", "content": item.get("content")}
        else:
            yield {"role": item.get("role"), "content": item.get("content")}
    if held is not None:
        yield held


def _tool(given: Any) -> dict[str, Any]:
    """A definition as chat templates have it."""
    if not isinstance(given, Mapping) or given.get("type") != "function":
        raise Unsupported("tools: functions are the only tools that an agent can bring", "tools")
    kept = ("name", "description", "parameters")
    return {"type": "function", "function": {name: given[name] for name in kept if given.get(name) is not None}}


def left_out(body: Mapping[str, Any], *how: Any) -> list[str]:
    """As `sampling.left_out`; the form of the answer stands elsewhere here."""
    text = body.get("text")
    form = text.get("format") if isinstance(text, Mapping) else None
    return sampling.left_out({**body, "response_format": form}, *how)


def response(answer: Answer, body: Mapping[str, Any], model: str, chat: ChatTokenizer) -> dict[str, Any]:
    """The answer as a `response`."""
    output: list[dict[str, Any]] = []
    said = answer.message
    cut = answer.finish == "length"
    status = "incomplete" if cut else "completed"
    if said.content or not said.tool_calls:
        item = {"type": "message", "id": message_id(answer.id), "status": status, "role": "assistant"}
        output.append({**item, "content": [part(said.content)]})
    for i, each in enumerate(said.tool_calls):
        item = {"type": "function_call", "id": f"fc_{answer.id}_{i}", "status": "completed", "call_id": each.id}
        output.append({**item, "name": each.name, "arguments": each.arguments_json})
    use = chat_api.usage(answer)
    return {
        **begun(answer.id, body, model),
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": use["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": use["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": use["total_tokens"],
        },
    }


def begun(answer: str, body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The `response` of which nothing is drawn yet. answer: its id."""
    head = chat_api.head("response", "resp", model, answer)
    return {
        **head,
        "created_at": head["created"],
        "status": "in_progress",
        "incomplete_details": None,
        "error": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
    }


def message_id(answer: str) -> str:
    """Of the item that is an answer's text."""
    return f"msg_{answer}"


def part(text: str) -> dict[str, Any]:
    """Text as the content of an item."""
    return {"type": "output_text", "text": text, "annotations": []}
