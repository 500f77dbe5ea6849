"""Episodes with a Python tool."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.sdk import Message, Scored
from services.environment.builtin import python_code
from services.environment.builtin.python_code import PythonCode
from services.environment.sandbox.run import SandboxUnavailable


def test_without_a_sandbox_no_episode_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SandboxUnavailable("forbidden here")

    monkeypatch.setattr(python_code, "check_sandbox", refuse)
    with pytest.raises(SandboxUnavailable):  # the service refuses to begin
        PythonCode().reset({"question": "?", "answer": "1"}, 0)


def call(code: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': code}})}</tool_call>"


def test_an_episode_runs_programs_then_answers() -> None:
    game = PythonCode()
    messages = game.reset({"question": "How many primes are below 100?", "answer": 25}, 0)
    assert [m.role for m in messages] == ["system", "user"] and "python" in messages[0].content
    primes = "print(sum(all(n % d for d in range(2, n)) for n in range(2, 100)))"
    turn = game.step(
        Message("assistant", call(primes) + call("x = 1") + call("print(x)") + call("open('/etc/passwd')")), "stop"
    )
    said = [m.content for m in turn.messages]
    assert said[:2] == ["25\n", "(it printed nothing)"]
    assert (
        "NameError" in said[2]
        and "FileNotFoundError" in said[3]
        and said[3].startswith("error: it ended with status 1")
    )
    turn = game.step(Message("assistant", "There are 25 primes."), "stop")
    assert turn.result == Scored(1.0, {"turns": 2.0, "calls": 4.0, "failed_calls": 2.0}, "25")
