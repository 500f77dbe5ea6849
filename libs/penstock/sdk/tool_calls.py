"""Tool calls in a model's turn: read from its text, checked against typed Python functions, answered as tool messages.

    def add(a: int, b: int) -> int:
        "Adds two numbers."
        return a + b

    tools = Tools([add])
    tools.prompt()                     # for the system message: what there is and how it is called
    tools.run(parse(action).calls)     # -> one `Answer` per call, in order

The form is that of Hermes and Qwen, `<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>`, any number
of them in a turn with text around them; structured `tool_calls` of the message count as well and come first.

Invariant (`test_no_turn_of_a_model_raises`): nothing that a model writes raises; broken JSON, an unknown tool and wrong
arguments are answered with what is wrong. A tool says that it cannot do what was asked by raising `ToolError`; any
other exception of a tool is a fault of the environment and passes through, so that it never becomes a reward.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from penstock.sdk.samples import Message, parse_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
RESULT_LENGTH = 8192
MAX_CALLS = 8
_SHOWN = 80


class ToolError(Exception):
    """What was asked for cannot be done; the text is for the model."""


@dataclass(frozen=True)
class Call:
    """A call that can be read; whether there is such a tool is not said yet."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Malformed:
    """A call that cannot be read; `reason` is for the model."""

    reason: str


@dataclass(frozen=True)
class Parsed:
    """A model's turn: the text outside of the calls, stripped, and the calls in order."""

    text: str
    calls: tuple[Call | Malformed, ...]


@dataclass(frozen=True)
class Answer:
    """What a call gave; `failed` if it did not do what was asked."""

    text: str
    failed: bool = False

    def message(self) -> Message:
        """For the model."""
        return Message("tool", self.text)


def parse(action: Message) -> Parsed:
    """Reads a model's turn. Linear in its length."""
    calls = [_read(dict(call)) for call in action.tool_calls]
    rest, spoken = action.content, list[str]()
    while True:
        before, opened, rest = rest.partition(OPEN)
        spoken.append(before)
        if not opened:
            break
        body, closed, rest = rest.partition(CLOSE)
        calls.append(_parse_body(body) if closed else Malformed(f"{OPEN} was not closed by {CLOSE}"))
    return Parsed("".join(spoken).strip(), tuple(calls))


def _parse_body(body: str) -> Call | Malformed:
    try:
        return _read(parse_json(body.strip()))
    except ValueError as error:
        return Malformed(f"the tool call is {error}; write {_form('NAME', '{…}')}")


def _read(fields: Any) -> Call | Malformed:
    if not isinstance(fields, dict):
        return Malformed(f"the tool call is {_show(fields)}, not an object; write {_form('NAME', '{…}')}")
    name, arguments = fields.get("name"), fields.get("arguments", {})
    if not isinstance(name, str) or not name:
        return Malformed(f'the tool call has no "name"; write {_form("NAME", "{…}")}')
    if not isinstance(arguments, dict):
        return Malformed(f'"arguments" of {_show(name)} must be an object, not {_show(arguments)}')
    return Call(name, arguments)


def _form(name: str, arguments: str) -> str:
    return f'{OPEN}{{"name": "{name}", "arguments": {arguments}}}{CLOSE}'


def _show(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


@dataclass(frozen=True)
class _Tool:
    """A function with typed arguments, all of which can be given by name."""

    function: Callable[..., Any]
    types: Mapping[str, pydantic.TypeAdapter[Any]] = field(default_factory=dict)
    required: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.function.__name__

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Tool:
        hints, types, required = typing.get_type_hints(function), {}, set()
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name not in hints or parameter.kind not in (
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                inspect.Parameter.KEYWORD_ONLY,
            ):
                raise TypeError(f"{function.__name__}: argument {parameter.name!r} needs a type and a name of its own")
            types[parameter.name] = pydantic.TypeAdapter[Any](hints[parameter.name])
            if parameter.default is inspect.Parameter.empty:
                required.add(parameter.name)
        return cls(function, types, frozenset(required))

    def description(self) -> dict[str, Any]:
        """The tool as JSON schema, as chat templates show it."""
        properties = {name: adapter.json_schema() for name, adapter in self.types.items()}
        schema = {"type": "object", "properties": properties, "required": [n for n in properties if n in self.required]}
        about = inspect.getdoc(self.function) or ""
        return {"type": "function", "function": {"name": self.name, "description": about, "parameters": schema}}

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function wants them.

        Raises:
            ToolError: one is missing, unknown or of another type; named with its value.
        """
        takes = ", ".join(self.types) or "none"
        for name in arguments:
            if name not in self.types:
                raise ToolError(f"{self.name} has no argument {_show(name)}; it takes {takes}")
        for name in self.types:
            if name in self.required and name not in arguments:
                raise ToolError(f"{self.name} needs the argument {name!r}; it takes {takes}")
        return {name: self._value(name, value) for name, value in arguments.items()}

    def _value(self, name: str, value: Any) -> Any:
        try:
            return self.types[name].validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            what = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
            reason = what[0].lower() + what[1:]
        except OverflowError:
            reason = "the number is too large"
        raise ToolError(f"{self.name}: argument {name!r} is {_show(value)}: {reason}")


class Tools:
    """A set of tools.

    Args:
        functions: each with a type for every argument; the docstring tells the model what it does.
        max_calls: most calls of one turn that are run; the others are answered with that.

    Raises:
        TypeError: an argument has no type, or cannot be given by name.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]], *, max_calls: int = MAX_CALLS) -> None:
        self._tools = {tool.name: tool for tool in map(_Tool.of, functions)}
        self._max_calls = max_calls

    def prompt(self) -> str:
        """The part of a system message that says which tools there are and how they are called."""
        lines = [json.dumps(tool.description(), ensure_ascii=False) for tool in self._tools.values()]
        return "\n".join(
            [
                "You may call one or more functions. Their signatures:",
                "<tools>",
                *lines,
                "</tools>",
                "For each call write a JSON object with the function's name and its arguments:",
                OPEN,
                '{"name": <function-name>, "arguments": <args-json-object>}',
                CLOSE,
            ]
        )

    def run(self, calls: Sequence[Call | Malformed]) -> list[Answer]:
        """One answer per call, in order.

        Raises:
            Exception: whatever but ToolError a tool raised.
        """
        too_many = Answer(f"not run: at most {self._max_calls} calls in one turn", failed=True)
        return [self._one(call) if i < self._max_calls else too_many for i, call in enumerate(calls)]

    def _one(self, call: Call | Malformed) -> Answer:
        try:
            if isinstance(call, Malformed):
                raise ToolError(call.reason)
            tool = self._tools.get(call.name)
            if tool is None:
                raise ToolError(f"there is no tool {_show(call.name)}; there is {', '.join(self._tools)}")
            return Answer(_cut(tool.function(**tool.checked(call.arguments))))
        except ToolError as error:
            return Answer(_cut(f"error: {error}"), failed=True)


def _cut(result: Any) -> str:
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
    if len(text) <= RESULT_LENGTH:
        return text
    return f"{text[:RESULT_LENGTH]}\n… ({len(text) - RESULT_LENGTH} more characters were cut)"
