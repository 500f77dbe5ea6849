"""`python_code`: questions to be worked out with programs; the tool runs Python in the sandbox.

A row is `{"question": "...", "answer": "42"}`. Each call of `python` is a new process with an empty `/tmp`: nothing is
kept from one call to the next. The model sees what its program printed, and the end of standard error where it failed.
The episode ends with a turn that calls nothing; the reward is 1 if its final answer equals the row's, else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.sdk import Invalid, Scored
from penstock.sdk.tool_calls import ToolError
from penstock.sdk.tool_environment import ToolEnvironment
from services.environment.answers.final import equal, final_answer
from services.environment.builtin.calculator import question_and_answer
from services.environment.sandbox.run import Limits, check_sandbox, run

# The (at most 8) calls of a turn run one after the other, within the 60 seconds that a rollout waits for a step.
LIMITS = Limits(wall_seconds=4.0, cpu_seconds=3, output=16 << 10)
_ERRORS = 2000


def python(code: str) -> str:
    """Runs a Python program (standard library only, no network) and returns what it prints."""
    done = run(code, limits=LIMITS)
    if done.succeeded:
        return done.stdout or "(it printed nothing)"
    raise ToolError("\n".join(part for part in (done.why(), done.stdout, done.stderr[-_ERRORS:]) if part))


class PythonCode(ToolEnvironment):
    """The model runs programs until it answers."""

    summary = "Answer a question with the help of Python programs, run in a sandbox."

    def begin(self, row: Mapping[str, Any], seed: int) -> str:
        """The row's question. Raises `SandboxUnavailable` where programs cannot be run: the episode cannot begin."""
        question, self._answer = question_and_answer(row)
        check_sandbox()
        return question

    def tools(self) -> Sequence[Callable[..., Any]]:
        """The interpreter."""
        return [python]

    def judge(self, answer: str) -> Scored | Invalid:
        """1 for the row's answer."""
        found = final_answer(answer)
        return Scored(float(equal(found, self._answer)), {}, found)
