r"""The final answer in a model's words, and whether it equals the row's: for questions whose answer is short.

The answer is what stands last of: `\boxed{…}` (braces within it are its own), `#### …`, `answer: …` or `answer is …`;
without those the last number; without a number the whole text. Numbers are equal by value (`1,250.0` is `1250`, `$3` is
`3`, `1/2` is `.5` and `\frac{1}{2}`, and `9 apples` is `9`), other answers as `forms.py` says, words without regard to
case and spaces.
"""

from __future__ import annotations

import re
from fractions import Fraction

from services.environment.answers.forms import same

_MARKED = re.compile(r"\\boxed\b|\\fbox\b|####([^\n]*)|\banswer(?:\s+is\s*:?|\s*[:=])([^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?(?:/\d+)?")
_PROSE = re.compile(r"[^\\^*/+=_!{}<>|]*")  # no sign of mathematics about the number
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"))
_LONGEST = 4096
_DIGITS = 400


def final_answer(text: str) -> str:
    """The answer that a text ends with."""
    found = marked_answer(text)
    if found is not None:
        return _bare(found)
    text = text[-_LONGEST:].translate(_MINUS)
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else _bare(text)


def marked_answer(text: str) -> str | None:
    """What the text marks as its answer; None without a mark, empty where the last box is not closed."""
    text = text[-_LONGEST:]
    marked = list(_MARKED.finditer(text))
    if not marked:
        return None
    last = marked[-1]
    if last[0].startswith("\\"):
        return _braced(text, last.end())
    inside = next((each for each in reversed(marked) if each[0].startswith("\\")), None)
    given = next(group for group in last.groups() if group is not None)
    return given if given.strip(" *:.") or inside is None else _braced(text, inside.end())


def _braced(text: str, at: int) -> str:
    while text[at : at + 1].isspace():
        at += 1
    if text[at : at + 1] != "{":
        return (re.match(r"[-\w.,/]*", text[at:]) or [""])[0]
    level, start = 0, at + 1
    for end in range(at, len(text)):
        if text[end - 1] == "\\" and text[end - 2 : end] != "\\\\":
            continue
        level += (text[end] == "{") - (text[end] == "}")
        if level == 0:
            return text[start:end]
    return ""


def equal(answer: str, expected: str) -> bool:
    """Whether two answers are the same."""
    ours, theirs = number(answer), number(expected)
    if theirs is not None and ours is None and _PROSE.fullmatch(answer[-_LONGEST:]):
        named = _NUMBER.findall(answer[-_LONGEST:].translate(_MINUS))
        ours = number(named[0]) if len(named) == 1 else None
    if ours is not None and theirs is not None:
        return ours == theirs
    if "".join(_bare(answer).split()).casefold() == "".join(_bare(expected).split()).casefold():
        return True
    return same(expected, answer)


def number(text: str) -> Fraction | None:
    """The number that a text is, exactly; None if it is none, or one of hundreds of digits."""
    text = _bare(text).translate(_MINUS).removeprefix("\\").removeprefix("$")
    if len(text) > _DIGITS or not _NUMBER.fullmatch(text):
        return None
    whole, _, below = text.replace(",", "").partition("/")
    return Fraction(whole) / int(below) if below.strip("0") else Fraction(whole) if not below else None


def _bare(text: str) -> str:
    return text.strip().lstrip("*`").rstrip("*`. \n").strip()
