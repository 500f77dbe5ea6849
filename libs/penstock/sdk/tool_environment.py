"""`ToolEnvironment`: a question, tools to work on it, and an answer: the model's first turn without a tool call.

    class Calculator(ToolEnvironment):
        def begin(self, row, seed): ...        # -> the question
        def tools(self): return [calculate]
        def judge(self, answer): ...           # -> Scored or Invalid

An episode: system (the tools) and user (the question) → calls → one tool message per call → … → answer → `judge`.
A turn that calls is never judged, whatever else it says. A turn that was cut off at the token limit without a call is
no answer either: the model is told, and a rollout that has no room left ends there, truncated, with the 0 so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import FinishReason, Invalid, Message, Scored
from penstock.sdk.tool_calls import Tools, parse


class ToolEnvironment(Environment):
    """Base class; see the module. Components of every reward: `turns`, `calls`, `failed_calls`."""

    max_turns = 8
    instructions = "Work with the tools. When you know the answer, give it without calling a tool."

    def begin(self, row: Mapping[str, Any], seed: int) -> str:
        """The question. Raise `BadRow` for a row that does not fit."""
        raise NotImplementedError

    def tools(self) -> Sequence[Callable[..., Any]]:
        """The functions that the model may call."""
        raise NotImplementedError

    def judge(self, answer: str) -> Scored | Invalid:
        """The reward of the final answer."""
        raise NotImplementedError

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        """Asks the question."""
        self._turns = self._calls = self._failed = 0
        question = self.begin(row, seed)
        self._tools = Tools(self.tools())
        return [Message("system", f"{self.instructions}\n\n{self._tools.prompt()}"), Message("user", question)]

    def step(self, action: Message, finish_reason: FinishReason) -> Turn:
        """Runs the turn's calls, or judges it."""
        self._turns += 1
        parsed = parse(action)
        if not parsed.calls and finish_reason != "length":
            return Turn(done=True, result=self._with_parts(self.judge(parsed.text)))
        answers = self._tools.run(parsed.calls)
        self._calls += len(answers)
        self._failed += sum(answer.failed for answer in answers)
        messages = [answer.message() for answer in answers]
        messages = messages or [Message("user", "your turn was cut off at the token limit: be shorter")]
        done = self._turns >= self.max_turns
        return Turn(() if done else messages, done, self._with_parts(Scored(0.0)))

    def _with_parts(self, result: Scored | Invalid) -> Scored | Invalid:
        if isinstance(result, Invalid):
            return result
        parts = {"turns": self._turns, "calls": self._calls, "failed_calls": self._failed}
        return Scored(result.value, {**result.components, **{k: float(v) for k, v in parts.items()}}, result.answer)
