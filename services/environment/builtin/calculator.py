"""`calculator`: questions that need arithmetic, with a tool that does it.

A row is `{"question": "what is 17 * 23?", "answer": "391"}`. The model calls `calculate` as often as it wants (8 turns)
and ends with a turn that calls nothing; the reward is 1 if the final answer in it equals the row's (`answers.py`),
else 0, as it is for an episode that never answers.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.sdk import BadRow, Invalid, Scored
from penstock.sdk.tool_calls import ToolError
from penstock.sdk.tool_environment import ToolEnvironment
from services.environment.answers.final import equal, final_answer

LONGEST = 500
LARGEST_BITS = 4096
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: _power(base, exponent),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculate(expression: str) -> str:
    """Evaluates arithmetic: numbers, + - * / // % **, and parentheses."""
    return str(evaluate(expression))


def evaluate(expression: str) -> int | float:
    """The value of an expression over numbers, in time and memory bounded by its length.

    Raises:
        ToolError: it is something else, undefined, or too large.
    """
    if len(expression) > LONGEST:
        raise ToolError(f"the expression has {len(expression)} characters; at most {LONGEST}")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ToolError(f"{expression[:80]!r} is no arithmetic: {error}") from error
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the result is too large") from error


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _bounded(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.BinOp(op=ast.BitXor()):
            raise ToolError("^ is not a power; write **")
        case ast.Tuple():
            raise ToolError("write numbers without commas")
    raise ToolError(f"only numbers, + - * / // % ** and parentheses: not {ast.unparse(node)[:80]!r}")


def _power(base: int | float, exponent: int | float) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base).bit_length() * abs(exponent) > LARGEST_BITS:
        if abs(base) > 1:
            raise OverflowError
    return base**exponent


def _bounded(value: Any) -> int | float:
    if isinstance(value, int) and value.bit_length() <= LARGEST_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ToolError("the result is no real number" if isinstance(value, complex) else "the result is too large")


class Calculator(ToolEnvironment):
    """The model asks for calculations until it answers."""

    summary = "Answer a question with the help of a calculator."

    def begin(self, row: Mapping[str, Any], seed: int) -> str:
        """The row's question."""
        question, self._answer = question_and_answer(row)
        return question

    def tools(self) -> Sequence[Callable[..., Any]]:
        """The calculator."""
        return [calculate]

    def judge(self, answer: str) -> Scored | Invalid:
        """1 for the row's answer."""
        found = final_answer(answer)
        return Scored(float(equal(found, self._answer)), {}, found)


def question_and_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    """The two fields of a row.

    Raises:
        BadRow: one is missing or of another type.
    """
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question:
        raise BadRow(f"question must be a text, not {question!r:.80}")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        raise BadRow(f"answer must be a text or a number, not {answer!r:.80}")
    return question, str(answer)
