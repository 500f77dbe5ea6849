from __future__ import annotations

from typing import Any

import pytest

from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.length import length


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        ({"most": 4}, "abcd", 1.0),
        ({"most": 4, "slack": 4}, "abcdef", 0.5),
        ({"most": 4}, "abcdefgh", 0.0),
        ({"most": 4, "slack": 0}, "abcde", 0.0),
        ({"least": 4, "slack": 4}, "ab", 0.5),
        ({"most": 2, "unit": "words"}, "one two", 1.0),
        ({"most": 3, "after": "</think>"}, "a long thought</think>yes", 1.0),
    ],
)
def test_it_falls_in_a_straight_line_beyond_the_bounds(wanted: dict[str, Any], text: str, value: float) -> None:
    found = length(Sample("1", completion=text, row={"length": wanted}))
    assert isinstance(found, Scored) and found.value == value


@pytest.mark.parametrize(
    "wanted", [None, {}, {"most": -1}, {"most": "4"}, {"least": 5, "most": 4}, {"most": 4, "x": 1}]
)
def test_a_row_that_says_nothing_is_invalid(wanted: object) -> None:
    assert isinstance(length(Sample("1", row={"length": wanted})), Invalid)
