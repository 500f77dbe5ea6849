"""`length`: how near is the completion's length to what the row wants?

    {"length": {"most": 200, "least": 20, "slack": 50, "unit": "words"}}

1 within the bounds, falling in a straight line to 0 at `slack` beyond them (a quarter of the bound by default). `unit`
is "characters" (the default) or "words"; `after: "</think>"` counts only what follows that text. As a second reward,
with a small weight, it shapes; a completion cut off at the token limit counts as it stands.
"""

from __future__ import annotations

from typing import Any

from penstock.sdk import Invalid, Sample, Scored, reward

_KEYS = {"most", "least", "slack", "unit", "after"}


@reward(minimum=0.0, maximum=1.0, timeout=5)
def length(sample: Sample) -> Scored | Invalid:
    """1 within the row's `length` bounds, falling to 0 beyond. Component `units`."""
    wanted = sample.row.get("length")
    if not isinstance(wanted, dict) or not wanted.keys() <= _KEYS or not wanted.keys() & {"most", "least"}:
        return Invalid(f"length must have most or least, and may have slack, unit and after: not {wanted!r:.80}")
    least, most, slack = (wanted.get(key) for key in ("least", "most", "slack"))
    if not all(each is None or _is_size(each) for each in (least, most, slack)):
        return Invalid("length: most, least and slack must be whole numbers of at least 0")
    if least is not None and most is not None and least > most:
        return Invalid(f"length: least {least} is above most {most}")
    unit, after = wanted.get("unit", "characters"), wanted.get("after", "")
    if unit not in ("characters", "words") or not isinstance(after, str):
        return Invalid("length: unit is characters or words, after is a text")
    text = sample.completion.rpartition(after)[2] if after else sample.completion
    size = len(text.split()) if unit == "words" else len(text)
    beyond, bound = 0, 0
    if most is not None and size > most:
        beyond, bound = size - most, most
    elif least is not None and size < least:
        beyond, bound = least - size, least
    room = slack if slack is not None else bound // 4
    value = 1.0 if not beyond else max(0.0, 1 - beyond / room) if room else 0.0
    return Scored(value, {"units": float(size)})


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**8
