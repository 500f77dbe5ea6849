"""`python_tests`: does the program in the completion pass the row's tests? Run in the sandbox, judged outside of it.

A row has `tests`, in one of two forms:

    {"tests": ["assert add(1, 2) == 3", "assert math.isclose(root(2), 1.414, abs_tol=0.01)"], "setup": "import math"}
    {"tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}]}

and may have `"score": "all"` (the default: 1 if every test passes) or `"share"` (the share that passes). The program is
the completion's last fenced block, or all of it without one. Components: `passed` (share), `program` (there was one
that could be parsed). All runs of a program together have 60 seconds; tests that come later have failed.

A program must not be able to claim success, so it never runs in the process that decides. Standard output is compared
here. An assertion is taken apart: the calls of the program's functions are made in a first run, which knows no expected
value; what they gave, as literals, is put in their place; a second run without the program decides. So leaving early,
printing what a judge would print, or objects that are equal to everything gain nothing.

The price: what a test calls must give numbers, texts, or lists, tuples, sets and dictionaries of them; a test is one
`assert`; names in it are built in, from `setup` (which the program sees), or the program's. Other rows are invalid.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.sdk import Invalid, Sample, Scored, reward
from services.environment.sandbox.run import Limits, run

MOST_TESTS = 64
LIMITS = Limits(wall_seconds=10.0, cpu_seconds=8)
ALL_SECONDS = 60.0
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_VALUE = "penstock_value_"


class BadTests(ValueError):
    """The row's tests cannot be judged; the text names the test."""


@reward(minimum=0.0, maximum=1.0, timeout=2 * ALL_SECONDS)
def python_tests(sample: Sample) -> Scored | Invalid:
    """Does the program pass the row's `tests`? Components `passed` and `program`."""
    try:
        suite = _suite(sample.row)
    except BadTests as error:
        return Invalid(str(error))
    program = extract(sample.completion)
    if sample.finish_reason != "stop" or not _parses(program):
        return Scored(0.0, {"passed": 0.0, "program": 0.0})
    try:
        passed = suite.judge(program)
    except BadTests as error:
        return Invalid(str(error))
    share = sum(passed) / len(passed)
    value = share if sample.row.get("score") == "share" else float(all(passed))
    return Scored(value, {"passed": share, "program": 1.0})


def extract(completion: str) -> str:
    """The program of a completion."""
    blocks = _FENCED.findall(completion)
    return blocks[-1] if blocks else completion


def _parses(program: str) -> bool:
    try:
        return bool(ast.parse(program).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _suite(row: Mapping[str, Any]) -> _Pairs | _Asserts:
    tests, setup = row.get("tests"), row.get("setup", "")
    if row.get("score", "all") not in ("all", "share"):
        raise BadTests(f'score must be "all" or "share", not {row["score"]!r:.80}')
    if not isinstance(tests, list) or not 1 <= len(tests) <= MOST_TESTS:
        raise BadTests(f"tests must be a list of 1 to {MOST_TESTS}")
    if all(isinstance(test, str) for test in tests) and isinstance(setup, str):
        return _Asserts.of(tests, setup)
    for i, test in enumerate(tests):
        if not (isinstance(test, dict) and all(isinstance(test.get(key), str) for key in ("stdin", "stdout"))):
            raise BadTests(f"test {i} has no texts stdin and stdout")
    return _Pairs([(test["stdin"], test["stdout"]) for test in tests])


@dataclass(frozen=True)
class _Pairs:
    """Tests by standard input and output; one run each. Spaces at the ends of lines and of the text do not count."""

    pairs: Sequence[tuple[str, str]]

    def judge(self, program: str) -> list[bool]:
        end = time.monotonic() + ALL_SECONDS
        return [self._passes(program, *pair, end - time.monotonic()) for pair in self.pairs]

    @staticmethod
    def _passes(program: str, given: str, expected: str, left: float) -> bool:
        if left <= 0:
            return False
        limits = dataclasses.replace(LIMITS, wall_seconds=min(left, LIMITS.wall_seconds))
        done = run(program, stdin=given, limits=limits)
        return done.succeeded and _lines(done.stdout) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


@dataclass(frozen=True)
class _Asserts:
    """Tests by assertions.

    Attributes:
        calls: source of what the program is asked for, in order.
        verdicts: source of each assertion's condition, with `penstock_value_N` where call N stood.
    """

    setup: str
    calls: Sequence[str]
    verdicts: Sequence[str]

    @classmethod
    def of(cls, tests: Sequence[str], setup: str) -> _Asserts:
        """Raises `BadTests`."""
        try:
            known = set(dir(builtins)) | _defined(ast.parse(setup))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadTests(f"setup is no Python: {error}") from error
        taking, verdicts = _TakeCalls(known), list[str]()
        for i, test in enumerate(tests):
            try:
                parsed = ast.parse(test.strip())
                if len(parsed.body) != 1 or not isinstance(parsed.body[0], ast.Assert):
                    raise BadTests("it is not one assert statement")
                before = len(taking.calls)
                verdicts.append(ast.unparse(taking.apart(parsed.body[0].test)))
                if len(taking.calls) == before:
                    raise BadTests("it calls nothing of the program")
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise BadTests(f"test {i} cannot be judged: {error}") from error
        return cls(setup, taking.calls, verdicts)

    def judge(self, program: str) -> list[bool]:
        """Raises `BadTests` if the second run fails without the program's answers too: the fault is the tests' then."""
        asked = {"setup": self.setup, "program": program, "calls": list(self.calls)}
        first = run(_ASK, stdin=json.dumps(asked), limits=LIMITS)
        passed, why = self._decide(first.stdout)
        if passed is None:  # whose fault? Without the program's answers the tests must come to an end
            without, why = self._decide("")
            if without is None:
                raise BadTests(f"the tests themselves failed: {why}")
            return [False] * len(self.verdicts)
        return passed

    def _decide(self, answers: str) -> tuple[list[bool] | None, str]:
        decided = {"setup": self.setup, "answers": answers, "calls": len(self.calls), "verdicts": self.verdicts}
        second = run(_DECIDE, stdin=json.dumps(decided, default=list), limits=LIMITS)
        try:
            passed = [found is True for found in json.loads(second.stdout)]
        except ValueError:
            passed = []
        return (passed if len(passed) == len(self.verdicts) else None), f"{second.why()} {second.stderr[-200:]}"


def _defined(tree: ast.Module) -> set[str]:
    """Names that a module defines at its top level."""
    names = set[str]()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


class _TakeCalls(ast.NodeTransformer):
    """Replaces the outermost calls of what is not known by values to be filled in, and collects them."""

    def __init__(self, known: set[str]) -> None:
        self._known = known
        self.calls = list[str]()

    def apart(self, condition: ast.expr) -> ast.expr:
        bound = {n.id for n in ast.walk(condition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {n.arg for n in ast.walk(condition) if isinstance(n, ast.arg)}
        if bound:
            raise BadTests(f"{', '.join(sorted(bound))} is bound in it; write one assert for each value")
        taken: ast.expr = self.visit(condition)
        unknown = {n.id for n in ast.walk(taken) if isinstance(n, ast.Name)} - self._known
        unknown = {name for name in unknown if not name.startswith(_VALUE)}
        if unknown:
            raise BadTests(f"{', '.join(sorted(unknown))} is neither built in, set up nor called")
        return taken

    def visit_Call(self, node: ast.Call) -> ast.AST:
        root: ast.expr = node
        while isinstance(root, ast.Call | ast.Attribute | ast.Subscript):
            inside = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Attribute) and isinstance(inside, ast.Name) and inside.id not in self._known:
                raise BadTests(f"{inside.id} is neither built in nor set up")
            root = inside
        if not isinstance(root, ast.Name) or root.id in self._known:
            return self.generic_visit(node)
        self.calls.append(ast.unparse(node))
        return ast.Name(f"{_VALUE}{len(self.calls) - 1}", ast.Load())


# The first run: the program answers calls. It may print and do what it likes: its answers are only ever its answers.
_ASK = """
import json, os, sys
asked = json.load(sys.stdin)
out = os.fdopen(os.dup(1), "w")
os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
def plain(value):
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return (set if kind is frozenset else kind)(map(plain, value))
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(value, kind):
            return kind(value)
    return value
names = {"__name__": "solution"}
exec(compile(asked["setup"], "setup", "exec"), names)
exec(compile(asked["program"], "program", "exec"), names)
for i, call in enumerate(asked["calls"]):
    try:
        answer = repr(plain(eval(call, names)))
    except Exception:
        continue
    out.write(json.dumps([i, answer]) + chr(10))
    out.flush()
"""

# The second run: the tests decide over what was answered. Nothing of the program runs here; its answers are data.
_DECIDE = """
import ast, json, sys
decided = json.load(sys.stdin)
class Floats(ast.NodeTransformer):
    def visit_Name(self, node):
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node
names = {"__name__": "tests"}
exec(compile(decided["setup"], "setup", "exec"), names)
for line in decided["answers"].splitlines():
    try:
        i, answer = json.loads(line)
        if type(i) is int and 0 <= i < decided["calls"] and type(answer) is str:
            names.setdefault("penstock_value_%d" % i, ast.literal_eval(Floats().visit(ast.parse(answer, mode="eval"))))
    except Exception:
        pass
passed = []
for verdict in decided["verdicts"]:
    try:
        passed.append(bool(eval(verdict, names)))
    except Exception:
        passed.append(False)
sys.__stdout__.write(json.dumps(passed))
"""
