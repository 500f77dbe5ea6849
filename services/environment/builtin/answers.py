r"""The final answer in a model's words, and whether it equals the row's: for questions whose answer is short.

The answer is what stands last of: `\boxed{…}`, `#### …`, `answer: …` or `answer is …`; without those the last number;
without a number the whole text. Numbers are equal by value (`1,250.0` is `1250`, `$3` is `3`, `1/2` is `0.5`, and
`9 apples` is `9`), other answers by their letters, without regard to case and spaces.
"""

from __future__ import annotations

import re
from fractions import Fraction

_MARKED = re.compile(r"\\boxed\{([^{}]*)\}|####([^\n]*)|\banswer(?:\s+is\s*:?|\s*[:=])([^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:/\d+)?")
_LONGEST = 4096
_DIGITS = 400


def final_answer(text: str) -> str:
    """The answer that a text ends with."""
    text = text[-_LONGEST:]
    marked = list(_MARKED.finditer(text))
    if marked:
        return _bare(next(group for group in marked[-1].groups() if group is not None))
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else _bare(text)


def equal(answer: str, expected: str) -> bool:
    """Whether two answers are the same."""
    ours, theirs = number(answer), number(expected)
    if theirs is not None and ours is None:
        named = _NUMBER.findall(answer[-_LONGEST:])
        ours = number(named[0]) if len(named) == 1 else None
    if ours is not None and theirs is not None:
        return ours == theirs
    return "".join(_bare(answer).split()).casefold() == "".join(_bare(expected).split()).casefold()


def number(text: str) -> Fraction | None:
    """The number that a text is, exactly; None if it is none, or one of hundreds of digits."""
    text = _bare(text).removeprefix("$")
    if len(text) > _DIGITS or not _NUMBER.fullmatch(text):
        return None
    whole, _, below = text.replace(",", "").partition("/")
    return Fraction(whole) / int(below) if below.strip("0") else Fraction(whole) if not below else None


def _bare(text: str) -> str:
    return text.strip().lstrip("*`").rstrip("*`. \n").strip()
