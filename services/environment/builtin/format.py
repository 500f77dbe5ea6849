"""`format`: does the whole completion match the row's regular expression (`pattern`)?"""

from __future__ import annotations

import re

from penstock.sdk import Invalid, Sample, reward


@reward(name="format", minimum=0.0, maximum=1.0, timeout=2)
def matches_format(sample: Sample) -> float | Invalid:
    """Does the completion match the row's `pattern`? 1 or 0."""
    try:
        pattern = re.compile(str(sample.row["pattern"]), re.DOTALL)
    except re.error as error:
        return Invalid(f"the row's pattern is no regular expression: {error}")
    return 1.0 if pattern.fullmatch(sample.completion) else 0.0
