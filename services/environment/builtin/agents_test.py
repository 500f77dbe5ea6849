"""The agents that ship, against a policy that says what it is told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from penstock.sdk.agents import Endpoint, Task
from penstock.sdk.samples import Scored
from services.environment.builtin.calculator_agent import calculator_agent
from services.environment.builtin.sorting_agent import sorting_agent


class Policy(Endpoint):
    """Says its answers one after the other; `heard` is what it was asked."""

    def __init__(self, *answers: Mapping[str, Any]) -> None:
        super().__init__("http://127.0.0.1:1/v1", "key")
        self.__dict__.update(answers=list(answers), heard=[])

    async def chat(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        self.__dict__["heard"].append(list(messages))
        return dict(self.__dict__["answers"].pop(0))


def said(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "calculate", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


async def test_the_calculator_agent_answers_calls_until_there_is_an_answer() -> None:
    policy = Policy(call('{"expression": "17 * 23"}'), call('{"expression": "1 /"}'), call("{}"), said("391"))
    result = await calculator_agent(Task({"question": "what is 17 * 23?", "answer": "391"}), policy)
    assert result == Scored(1.0, {"calls": 3.0}, "391")
    told = [m["content"] for m in policy.heard[-1] if m["role"] == "tool"]  # type: ignore[attr-defined]
    assert told[0] == "391" and all(each.startswith("error: ") for each in told[1:])


async def test_an_agent_without_end_has_no_answer() -> None:
    policy = Policy(*[call('{"expression": "1"}')] * 8)
    assert await calculator_agent(Task({"question": "1?", "answer": "1"}), policy) == Scored(0.0, {"calls": 8.0})


@pytest.mark.parametrize(
    ("answers", "value", "first"), [(["abc"], 1.0, 1.0), (["acb", "abc"], 1.0, 0.0), (["cab", "b"], 0.0, 0.0)]
)
async def test_the_sorting_agent_asks_once_more(answers: list[str], value: float, first: float) -> None:
    result = await sorting_agent(Task({"prompt": "cab"}), Policy(*map(said, answers)))
    assert result == Scored(value, {"first": first}, answers[-1])
