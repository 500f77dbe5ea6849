"""What a reward sees and gives: plain Python values (hosting/wire.py turns them into protos, and JSON for workers).

Invariant (`test_no_failure_becomes_a_number`): whatever a reward returns that is not a finite number of at most 1e9 in
size becomes `Invalid` with a reason; no failure ever becomes a score.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from penstock.rules.bounds import LARGEST_REWARD as LARGEST
from penstock.rules.bounds import LONGEST_NAME, MOST_COMPONENTS

ANSWER_LENGTH = 4096
MOST_ANSWERS = 1024
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
    None where that has no meaning. `rewards`: of an agent alone: what answers of the model earned by themselves, by
    their `id` in the API; contexts that earned different amounts are trained with advantages of their own.
    """

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Invalid:
    """The sample could not be scored; `reason` is one sentence."""

    reason: str


Result = Scored | Invalid


def as_result(returned: object) -> Result:
    """The meaning of what a reward returned."""
    if isinstance(returned, Invalid):
        return returned
    given, earned = dict[str, Any](), dict[str, Any]()
    value, answer = returned, None
    if isinstance(returned, Scored):
        value, given, earned = returned.value, dict(returned.components), dict(returned.rewards)
        answer = returned.answer if returned.answer is None else str(returned.answer)[:ANSWER_LENGTH]
    components = dict[str, float]()
    if len(given) > MOST_COMPONENTS:
        return Invalid(f"the reward has {len(given)} components; at most {MOST_COMPONENTS} are taken")
    for name, part in given.items():
        if len(str(name)) > LONGEST_NAME:
            return Invalid(f"the name of component {str(name)!r:.80} has more than {LONGEST_NAME} characters")
        found = as_number(part)
        if isinstance(found, str):
            return Invalid(f"component {name!r:.80} {found}")
        components[str(name)] = found
    if len(earned) > MOST_ANSWERS:
        return Invalid(f"{len(earned)} answers have rewards of their own; at most {MOST_ANSWERS} are taken")
    rewards = dict[str, float]()
    for name, part in earned.items():
        found = as_number(part)
        if isinstance(found, str):
            return Invalid(f"the reward of answer {name!r:.80} {found}")
        rewards[str(name)] = found
    number = as_number(value)
    if isinstance(number, str):
        return Invalid(f"the reward returned {_shown(value)}, which {number}")
    return Scored(number, components, answer, rewards)


def as_number(value: object) -> float | str:
    """The finite number that a value is, or what is wrong with it.

    A number is what says so: int, float, bool, Decimal, Fraction, numpy's scalars and its bool, and arrays and tensors
    without a dimension, from whichever library: they are known by what they can do, and nothing is imported.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    real = isinstance(value, numbers.Real | Decimal)
    scalar = getattr(value, "shape", None) == () and hasattr(value, "__float__") and kind in (None, *"biufV")
    if not real and not scalar:
        return "is not a finite number"
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return f"is beyond {LARGEST:g}"
    except Exception:  # somebody's class, at a process boundary
        return "is not a finite number"
    if not math.isfinite(number):
        return "is not a finite number"
    return number if abs(number) <= LARGEST else f"is beyond {LARGEST:g}"


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # a repr of somebody's, or an integer of too many digits
        return f"a {type(value).__name__}"


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
