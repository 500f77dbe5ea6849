"""Programs judged by tests that they cannot fool."""

from __future__ import annotations

import re
from typing import Any

import pytest

from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.python_tests import extract, python_tests
from services.environment.sandbox.run import Limits, SandboxUnavailable

ADD = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'", "assert add([], [1])[0] == 1"]
SQUARES = [{"stdin": "3\n", "stdout": "9\n"}, {"stdin": "-2\n", "stdout": "4"}]
ANYTHING = "type('Any', (), dict.fromkeys(('__eq__', '__bool__', '__getitem__'), lambda *_: True))()"
EVERYTHING = (
    f"class E(int):\n  __eq__ = __bool__ = __ge__ = __le__ = lambda *_: True\n  __repr__ = lambda _: {ANYTHING!r}\n"
)


def judged(program: str, tests: Any, finish_reason: Any = "stop", **row: Any) -> Scored | Invalid:
    found = python_tests(Sample("1", completion=program, finish_reason=finish_reason, row={"tests": tests, **row}))
    assert isinstance(found, Scored | Invalid)
    return found


def value(program: str, tests: Any, **row: Any) -> float:
    found = judged(program, tests, **row)
    assert isinstance(found, Scored), found
    return found.value


def test_a_right_program_passes() -> None:
    program = "Here it is:\n```python\ndef add(a, b):\n    print('noise')\n    return a + b\n```\nDone."
    assert judged(program, ADD) == Scored(1.0, {"passed": 1.0, "program": 1.0})
    assert value("n = int(input())\nprint(n * n, '')", SQUARES) == 1.0


def test_the_share_of_passed_tests_can_be_the_score() -> None:
    program = "def add(a, b):\n    return a + b if a != 'a' else 1 / 0"
    assert judged(program, ADD) == Scored(0.0, {"passed": 2 / 3, "program": 1.0})
    assert value(program, ADD, score="share") == 2 / 3
    assert value("print(9)", SQUARES, score="share") == 0.5


def test_setup_serves_both_sides() -> None:
    tests = ["assert math.isclose(root(two()), math.sqrt(2), rel_tol=1e-6)", "assert math.isinf(Solution().root(0))"]
    program = """
import collections
def root(n): return n ** 0.5
class Solution:
    def root(self, n): return float("inf")
"""
    assert value(program, tests, setup="import math\ndef two(): return 2") == 1.0
    assert value("import collections\ndef f(): return collections.Counter('aab')", ["assert f() == {'a': 2, 'b': 1}"])


@pytest.mark.parametrize(
    "trick",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "print('[true, true, true]')",
        "import os; os.write(1, b'[true, true, true]'); os._exit(0)",
        "import os\nfor i in range(9):\n  try: os.write(i, b'[true, true, true]')\n  except OSError: pass\nos._exit(0)",
        f"def add(a, b): return {ANYTHING}",
        EVERYTHING + "def add(a, b): return E()",
        "import builtins\nbuiltins.bool = builtins.all = lambda *_: True\ndef add(a, b): return 0",
        "import atexit, os\natexit.register(lambda: os.write(1, b'[true, true, true]'))\ndef add(a, b): return 0",
        "import json\njson.dumps = lambda *_: '[true, true, true]'\ndef add(a, b): return 0",
        "def plain(x): return True\ndef add(a, b): return True",
        "import sys\nasked = sys._getframe(1).f_globals['asked']\nasked['calls'][:] = ['True'] * 3\ndef add(a, b): 0",
        "def add(a, b):\n  try: return open('/program.py').read()\n  except OSError: return 0",
        "import sys\nsys.stdin.seek(0)\ndef add(a, b): return 0",
        "def add(a, b):\n  while True: pass",
        "def add(a, b): return [0] * 10**8",
        "def add(a, b):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x",
        "def add(a, b): return 10 ** 10 ** 5",
        "",
        "this is no program",
        "def add(a, b: return a",
    ],
)  # fmt: skip
def test_a_program_cannot_claim_success(trick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.environment.builtin.python_tests.LIMITS", Limits(wall_seconds=10, cpu_seconds=1))
    assert judged(trick, ADD, score="share") in (
        Scored(0.0, {"passed": 0.0, "program": 1.0}),
        Scored(0.0, {"passed": 0.0, "program": 0.0}),
    )
    assert value(trick, SQUARES[:1], score="share") == 0.0


def test_tests_beyond_the_time_of_a_program_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.environment.builtin.python_tests.ALL_SECONDS", 1.0)
    slow = "import time\nn = int(input())\ntime.sleep(0 if n == 3 else 9)\nprint(n * n)"
    assert value(slow, [*SQUARES, SQUARES[0]], score="share") == 1 / 3


def test_a_program_that_was_cut_off_fails() -> None:
    assert judged("def add(a, b): return a + b", ADD, "length") == Scored(0.0, {"passed": 0.0, "program": 0.0})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "tests must be a list"),
        ({"tests": []}, "1 to"),
        ({"tests": ["assert f(1) == 1"] * 65}, "1 to 64"),
        ({"tests": ["f(1)"]}, "test 0 .* not one assert"),
        ({"tests": ["assert f(1) ==="]}, "test 0"),
        ({"tests": ["assert 1 == 1"]}, "calls nothing"),
        ({"tests": ["assert math.isclose(f(1), 1)"]}, "math is neither"),
        ({"tests": ["assert f(1) == x"]}, "x is neither"),
        ({"tests": ["assert all(f(i) for i in range(3))"]}, "i is bound in it"),
        ({"tests": ["assert f(1) == 1"], "setup": "import ("}, "setup is no Python"),
        ({"tests": ["assert f(1) == 1"], "setup": "1/0"}, "the tests themselves failed.*ZeroDivisionError"),
        ({"tests": [{"stdin": "1"}]}, "test 0 has no texts"),
        ({"tests": ["assert f(1) == 1"], "score": "most"}, "score must be"),
    ],
)
def test_a_row_that_cannot_be_judged_is_invalid_not_wrong(row: dict[str, Any], says: str) -> None:
    found = python_tests(Sample("1", completion="def f(x): return x", row=row))
    assert isinstance(found, Invalid)
    assert re.search(says, found.reason, re.DOTALL), found.reason


def test_without_a_sandbox_nothing_is_run_or_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SandboxUnavailable("forbidden here")

    monkeypatch.setattr("services.environment.builtin.python_tests.run", refuse)
    with pytest.raises(SandboxUnavailable):  # the worker makes it invalid
        judged("def add(a, b): return a + b", ADD)


def test_the_last_block_is_the_program() -> None:
    assert extract("```py\na\n```\nbetter:\n```python\nb\n``` ok") == "b\n"
    assert extract("```\nnot closed") == "not closed"
    assert extract("print(1)") == "print(1)"


def test_a_program_cannot_choose_to_be_unjudged() -> None:
    """Its answer makes the judging run end for want of memory: that is wrong, not invalid."""
    assert value("def f(): return 10 ** 10", ["assert len('a' * f()) == 3", "assert [0] * f() == []"]) == 0.0
