"""Tool calls in what a model drew, in the form of its family.

    hermes    <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>    Hermes, Qwen; any number, text around
    llama3    {"name": "add", "parameters": {"a": 1}}                          Llama 3.x: the whole turn, `;` between
    mistral   [TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]            Mistral; newer ones write
              [TOOL_CALLS]add[ARGS]{"a": 1}                                    one after the other

Which form a template has is not looked up but seen: by what it writes for a call. A turn that has no call in the form,
or one that cannot be read, is text.

Invariant (test name): nothing that a model draws raises.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from penstock.common.v1.common_pb2 import ToolCall

Calls = tuple[str, list[ToolCall]]
"""The text in front of the calls, and the calls."""
_HERMES = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
_ARGS = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][\w-]*)?\[ARGS\]\s*")
_DECODER = json.JSONDecoder()


class _NoCallError(ValueError):
    """What was drawn is no call in the form."""


def form_of(written: str, name: str) -> str | None:
    """The form in which a template wrote a call of `name`; None for one that is not known here."""
    if _MISTRAL in written:
        return "mistral"
    if "<tool_call>" in written and re.search(rf'"name":\s*"{re.escape(name)}"', written):
        return "hermes"
    if re.search(rf'{{\s*"name":\s*"{re.escape(name)}",\s*"parameters":', written):
        return "llama3"
    return None


def read(form: str, text: str) -> Calls | None:
    """What a turn calls; None if it calls nothing that can be read."""
    try:
        before, calls = READERS[form](text)
        return before.strip(), [_call(i, *found) for i, found in enumerate(calls)]
    except (ValueError, RecursionError):
        return None


def _hermes(text: str) -> tuple[str, list[tuple[Any, Any]]]:
    bodies = _HERMES.findall(text)
    if not bodies:
        raise _NoCallError
    return _HERMES.sub("", text), [_named(json.loads(body), "arguments") for body in bodies]


def _llama3(text: str) -> tuple[str, list[tuple[Any, Any]]]:
    calls = [_named(found, "parameters") for found in _objects(text.strip().removeprefix("<|python_tag|>"))]
    if not calls:
        raise _NoCallError
    return "", calls


def _objects(text: str) -> Iterator[Any]:
    """JSON values with `;` or white space between them, and nothing else."""
    at = 0
    while at < len(text):
        if text[at] in "; \n\t":
            at += 1
            continue
        value, at = _DECODER.raw_decode(text, at)
        yield value


def _mistral(text: str) -> tuple[str, list[tuple[Any, Any]]]:
    before, found, rest = text.partition(_MISTRAL)
    if not found:
        raise _NoCallError
    if _ARGS.match(rest) is None:
        listed = json.loads(rest)
        if not isinstance(listed, list) or not listed:
            raise _NoCallError
        return before, [_named(each, "arguments") for each in listed]
    calls = []
    for part in rest.split(_MISTRAL):
        head = _ARGS.match(part)
        if head is None:
            raise _NoCallError
        calls.append((head[1], json.loads(part[head.end() :])))
    return before, calls


def _named(call: Any, arguments: str) -> tuple[Any, Any]:
    if not isinstance(call, Mapping):
        raise _NoCallError
    return call.get("name"), call.get(arguments, {})


def _call(number: int, name: Any, arguments: Any) -> ToolCall:
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise _NoCallError
    return ToolCall(id=f"call{number:05}", name=name, arguments_json=json.dumps(arguments))


READERS: Mapping[str, Callable[[str], tuple[str, list[tuple[Any, Any]]]]] = {
    "hermes": _hermes,
    "llama3": _llama3,
    "mistral": _mistral,
}
