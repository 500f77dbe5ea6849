"""Are the lengths of what was trained those that the fake engine drew? Kolmogorov-Smirnov against the exact law.

A system that loses or repeats samples by what they are (the long ones are in flight when something dies) trains other
lengths than were drawn.
"""

import math
from collections.abc import Mapping, Sequence

CRITICAL = 1.95
"""Of the statistic times the root of n, at the level .001; lower for laws over whole numbers, so errors are rarer."""


def law(end: float, longest: int) -> list[float]:
    """P(length <= n) for n = 1 … longest: a token is the last with probability `end`, the limit ends the rest."""
    return [1 - (1 - end) ** n for n in range(1, longest)] + [1.0]


def distance(lengths: Mapping[int, int], cumulative: Sequence[float]) -> float:
    """The largest difference of the two distributions times the root of the number of lengths, given as counts."""
    seen, worst, total = 0, 0.0, sum(lengths.values())
    for length, expected in enumerate(cumulative, 1):
        seen += lengths.get(length, 0)
        worst = max(worst, abs(seen / total - expected))
    return worst * math.sqrt(total)
