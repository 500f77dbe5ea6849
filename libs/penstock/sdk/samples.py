"""What a reward sees and gives: plain Python values (hosting/wire.py turns them into protos, and JSON for workers).

Invariant (`test_no_failure_becomes_a_number`): whatever a reward returns that is not a finite number becomes `Invalid`
with a reason; no failure ever becomes a score.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ANSWER_LENGTH = 4096
FinishReason = Literal["unspecified", "stop", "length"]


@dataclass(frozen=True)
class Message:
    """One chat message; `role` is system, user, assistant or tool. Tool calls are `{"id", "name", "arguments"}`."""

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        prompt: the conversation before the completion.
        completion: its text, without special tokens.
        finish_reason: "stop" if it ended with a stop token, "length" if it ran out of room.
        row: the data set's row.
    """

    id: str
    prompt: tuple[Message, ...] = ()
    completion: str = ""
    finish_reason: FinishReason = "stop"
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A finite score with its named parts.

    `answer`: what was taken as the sample's answer, equal strings for equal answers, so that samples can vote (cons@k);
    None where that has no meaning.
    """

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None


@dataclass(frozen=True)
class Invalid:
    """The sample could not be scored; `reason` is one sentence."""

    reason: str


Result = Scored | Invalid


def as_result(returned: object) -> Result:
    """The meaning of what a reward returned."""
    if isinstance(returned, Invalid):
        return returned
    if isinstance(returned, Scored):
        bad = [name for name, value in returned.components.items() if not _is_finite(value)]
        if bad:
            return Invalid(f"component {bad[0]!r} is not a finite number")
        value, components = returned.value, {name: float(part) for name, part in returned.components.items()}
        answer = returned.answer if returned.answer is None else str(returned.answer)[:ANSWER_LENGTH]
    else:
        value, components, answer = returned, {}, None  # type: ignore[assignment]
    if not _is_finite(value):
        return Invalid(f"the reward returned {value!r:.80}, which is not a finite number")
    return Scored(float(value), components, answer)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def parse_json(value: str) -> Any:
    """A JSON text of a request.

    Raises:
        ValueError: it is not JSON, or nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ValueError("not usable JSON: nested too deeply, or a number is too long") from error
