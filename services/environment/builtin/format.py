r"""`format`: has the whole completion the row's form? `regex`: does a pattern occur in it, or give the row's answer?

    {"pattern": "<think>.*</think>\\d+"}             format: the whole completion matches
    {"tags": ["think", "answer"], "opened": true}     format: `…</think> <answer>…</answer>`, each once, in order
    {"pattern": "total: (\\d+)", "answer": "42"}     regex: group 1 of the last match is the answer

Without either `format` wants think and answer tags. `opened`: the template's prompt ends with the first tag already.
A completion that makes a pattern run for ever does not match: else it could choose to be unjudged.
"""

from __future__ import annotations

from typing import Any

import regex  # type: ignore[import-untyped]

from penstock.sdk import Invalid, Sample, reward
from services.environment.builtin.short_answers import normalised

SECONDS = 1.0
_TAGS = ("think", "answer")


class BadPattern(ValueError):
    """The row's pattern cannot be used."""


@reward(name="format", minimum=0.0, maximum=1.0, timeout=10)
def matches_format(sample: Sample) -> float | Invalid:
    """Has the completion the row's form (`pattern`, or `tags`)? 1 or 0."""
    row = sample.row
    if "pattern" not in row:
        tags = row.get("tags", _TAGS)
        if not isinstance(tags, list | tuple) or not tags or not all(isinstance(tag, str) and tag for tag in tags):
            return Invalid("tags must be a list of names")
        return float(_has_tags(sample.completion, [*tags], opened=bool(row.get("opened", False))))
    try:
        return float(_find(row["pattern"], sample.completion, whole=True) is not None)
    except BadPattern as error:
        return Invalid(str(error))


@reward(name="regex", minimum=0.0, maximum=1.0, timeout=10)
def matches_regex(sample: Sample) -> float | Invalid:
    """Does the row's `pattern` occur, and is group 1 of its last match the row's `answer`, if it has one? 1 or 0."""
    answer = sample.row.get("answer")
    try:
        found = _find(sample.row.get("pattern"), sample.completion, whole=False)
    except BadPattern as error:
        return Invalid(str(error))
    if answer is None or found is None:
        return float(found is not None)
    return float(normalised(found) == normalised(str(answer)))


def _has_tags(text: str, tags: list[str], *, opened: bool) -> bool:
    """Only white space between the parts, none of them empty, no tag twice."""
    left = f"<{tags[0]}>{text}" if opened else text
    if any(left.count(each) != 1 for tag in tags for each in (f"<{tag}>", f"</{tag}>")):
        return False
    for tag in tags:
        left = left.lstrip()
        inside, closed, after = left.removeprefix(f"<{tag}>").partition(f"</{tag}>")
        if not left.startswith(f"<{tag}>") or not closed or not inside.strip():
            return False
        left = after
    return not left.strip()


def _find(pattern: Any, text: str, *, whole: bool) -> str | None:
    """The (last) match's first group, or all of it. Raises BadPattern."""
    if not isinstance(pattern, str):
        raise BadPattern("the row's pattern is no text")
    try:
        compiled = regex.compile(pattern, regex.DOTALL)
        found = None
        if whole:
            found = compiled.fullmatch(text, timeout=SECONDS)
        else:
            for found in compiled.finditer(text, timeout=SECONDS):  # noqa: B007 - the last one stays
                pass
    except TimeoutError:
        return None
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"the row's pattern is no regular expression: {error}") from error
    if found is None:
        return None
    return str(found[1] if compiled.groups and found[1] is not None else found[0])
