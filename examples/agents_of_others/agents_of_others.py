"""Two agents with a calculator, made with the libraries of others as their own pages say; neither library is changed.

A row has `question`, such as `17*23`, and `answer`. The reward is 1 where the agent's last word is the answer and it
had asked the calculator; a guess is worth nothing.
"""

import operator
import re
from typing import Any

from penstock.sdk import Scored, Task, agent

CALLS = {"*": operator.mul, "+": operator.add, "-": operator.sub}
LONGEST = 40


def calculated(expression: str) -> str:
    """The value of two numbers with *, + or - between them."""
    found = re.fullmatch(r"(-?\d+) ?([*+-]) ?(-?\d+)", expression.strip()[:LONGEST])
    if found is None:
        return "error: write two numbers"
    return str(CALLS[found[2]](int(found[1]), int(found[3])))


def scored(task: Task, said: Any, calls: list[str]) -> Scored:
    answer = str(said).strip()
    right = answer == str(task.row["answer"]) and bool(calls)
    return Scored(float(right), {"calls": float(len(calls))}, answer[:80])


@agent(client="endpoint")
def smolagents_calculator(task: Task, endpoint: Any) -> Scored:
    """smolagents' ToolCallingAgent with a calculator."""
    from smolagents import AgentError, OpenAIModel, ToolCallingAgent, tool
    from smolagents.agents import EMPTY_PROMPT_TEMPLATES
    from smolagents.monitoring import LogLevel

    calls: list[str] = []

    @tool
    def calculate(expression: str) -> str:
        """Says what two numbers make.

        Args:
            expression: such as 2*3
        """
        calls.append(expression)
        return calculated(expression)

    # What a tool was called with and said is the user's here: small models say what assistants said before.
    told = {"tool-call": "user", "tool-response": "user"}
    model = OpenAIModel("policy", api_base=endpoint.base_url, api_key=endpoint.key, custom_role_conversions=told)
    templates = {**EMPTY_PROMPT_TEMPLATES, "system_prompt": "calculate, then final_answer"}

    def after(step: Any, agent: Any) -> None:
        if step.error is not None:  # a small model makes nothing of a long error; a call that is none is the end
            agent.interrupt()

    quiet = LogLevel.OFF
    player = ToolCallingAgent([calculate], model, templates, max_steps=3, verbosity_level=quiet, step_callbacks=[after])
    try:
        return scored(task, player.run(str(task.row["question"])), calls)
    except AgentError:
        return scored(task, "", calls)


@agent(client="endpoint")
async def sdk_calculator(task: Task, endpoint: Any) -> Scored:
    """An agent of OpenAI's Agents SDK with a calculator, over chat completions."""
    from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
    from agents.exceptions import MaxTurnsExceeded
    from openai import AsyncOpenAI

    calls: list[str] = []

    @function_tool
    def calculate(expression: str) -> str:
        """Says what two numbers make."""
        calls.append(expression)
        return calculated(expression)

    async with AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.key) as client:
        model = OpenAIChatCompletionsModel("policy", client)
        player: Any = Agent("calculator", instructions="calculate, then answer", tools=[calculate], model=model)
        try:
            run = await Runner.run(
                player, str(task.row["question"]), max_turns=3, run_config=RunConfig(tracing_disabled=True)
            )
        except MaxTurnsExceeded:
            return scored(task, "", calls)
    return scored(task, run.final_output, calls)
