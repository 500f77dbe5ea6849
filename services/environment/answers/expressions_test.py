from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.environment.answers.expressions import LONGEST, Expression, equal
from services.environment.answers.values import TooLarge, Unreadable

PIECES = st.sampled_from(
    [
        *r"0 1 9 x y e i ( ) { } [ ] ^ _ ! / - + * . , | \frac \sqrt \binom \pi \sin \ln \log \exp \cdot".split(),
        "9^",
        "!)",
    ]
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"2(3)", "6"),
        (r"\frac13", "1/3"),
        (r"\sqrt{12}", r"2\sqrt3"),
        (r"\sqrt[3]{-8}", "-2"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\log_2 8", "3"),
        (r"\sin^2 x + \cos^2 x", r"\frac{x}{x}"),
        (r"\sin(30^\circ)", ".5"),
        ("e^{i\\pi}", "-1"),
        ("2^10", "1024"),
        ("2^{-3}", "0.125"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        ("0.333333", r"\frac{1}{3}"),
        ("1,234", "1234"),
    ],
)
def test_equal_values_are_equal(one: str, other: str) -> None:
    assert equal(Expression(one), Expression(other)) and equal(Expression(other), Expression(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.33", r"\frac13"),
        ("|x|", "x"),
        (r"\sqrt{x^2}", "x"),
        (r"10^{100}+\sqrt{2}", r"10^{100}+\sqrt{3}"),
        ("10^{-7}", "2 \\cdot 10^{-7}"),
        (r"\pi", "3.14"),
        ("x", "X"),
        ("3x+2", "3y+2"),
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        ("0.1234567", "0.123457"),
    ],
)
def test_other_values_are_not(one: str, other: str) -> None:
    assert not equal(Expression(one), Expression(other))


@pytest.mark.parametrize("text", ["east", "no", "3 4", "x2", "1/2x", "(1", "", "1/0", r"\int x", "x^", r"\infty"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        Expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^9}}",
        "10^{10^10}",
        "100000!",
        "((((5!)!)!)!)",
        r"\binom{1000000000}{500000000}",
        "(" * 500 + "1" + ")" * 480,
        "9" * 900,
        "2^{-1000000000}",
        r"\exp(\exp(\exp(\exp(9))))",
        "{" * 999,
    ],
)
def test_what_blows_up_is_refused_at_once(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(TooLarge):
        Expression(text)
    assert time.perf_counter() - started < 0.5


@settings(max_examples=300, deadline=2000)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60))
def test_reading_ends_whatever_the_text(text: str) -> None:
    try:
        found = Expression(text[:LONGEST])
    except Unreadable:
        return
    assert equal(found, found) or found.names
