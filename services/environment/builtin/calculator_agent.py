"""`calculator_agent`: an agent that works with a tool, as any program for OpenAI's API does.

A row is that of `calculator`. The model is offered `calculate`, calls it as often as it wants, and ends with an answer
that calls nothing; the reward is 1 if that equals the row's.
"""

from __future__ import annotations

import json
from typing import Any

from penstock.sdk.agents import Endpoint, Task, agent
from penstock.sdk.samples import Scored
from penstock.sdk.tool_calls import ToolError
from services.environment.answers.final import equal, final_answer
from services.environment.builtin.calculator import calculate, question_and_answer

TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluates arithmetic: numbers, + - * / // % **, and parentheses.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
ROUNDS = 8


@agent(client="endpoint")
async def calculator_agent(task: Task, endpoint: Endpoint) -> Scored:
    """Is the answer right, worked out with a calculator? 1 or 0."""
    question, wanted = question_and_answer(task.row)
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    calls = 0
    for _ in range(ROUNDS):
        said = await endpoint.chat(messages, tools=[TOOL])
        messages.append(said)
        asked = said.get("tool_calls") or []
        if not asked:
            found = final_answer(str(said["content"] or ""))
            return Scored(float(equal(found, wanted)), {"calls": float(calls)}, found)
        for call in asked:
            calls += 1
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": _result(call["function"])})
    return Scored(0.0, {"calls": float(calls)})


def _result(function: dict[str, Any]) -> str:
    try:
        return calculate(str(json.loads(function["arguments"])["expression"]))
    except (ValueError, KeyError, ToolError) as error:
        return f"error: {error}"
