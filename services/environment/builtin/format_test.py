from __future__ import annotations

import time
from typing import Any

import pytest

from penstock.sdk import Invalid, Sample
from services.environment.builtin.format import matches_format, matches_regex


def test_format_matches_the_whole_completion() -> None:
    row = {"pattern": r"<think>.*</think>\d+"}
    assert matches_format(Sample("1", completion="<think>a\nb</think>42", row=row)) == 1.0
    assert matches_format(Sample("1", completion="x<think></think>42", row=row)) == 0.0
    assert isinstance(matches_format(Sample("1", row={"pattern": "("})), Invalid)


@pytest.mark.parametrize(
    ("completion", "row", "value"),
    [
        ("<think>a</think>\n<answer>b</answer>", {}, 1.0),
        ("a</think> <answer>b</answer>", {"opened": True}, 1.0),
        ("a</think> <answer>b</answer>", {}, 0.0),
        ("<think>a</think> so <answer>b</answer>", {}, 0.0),
        ("<think>a</think><answer>b</answer> done", {}, 0.0),
        ("<think>a</think><answer> </answer>", {}, 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", {}, 0.0),
        ("<answer>b</answer><think>a</think>", {}, 0.0),
        ("<plan>a</plan>", {"tags": ["plan"]}, 1.0),
        ("", {}, 0.0),
    ],
)
def test_tags_stand_once_in_order_with_nothing_between(completion: str, row: dict[str, Any], value: float) -> None:
    assert matches_format(Sample("1", completion=completion, row=row)) == value


def test_regex_finds_the_last_match() -> None:
    row = {"pattern": r"total: (\d+)", "answer": 42}
    assert matches_regex(Sample("1", completion="total: 7, no, total: 42.", row=row)) == 1.0
    assert matches_regex(Sample("1", completion="total: 42, no, total: 7.", row=row)) == 0.0
    assert matches_regex(Sample("1", completion="x", row={"pattern": "[a-w]"})) == 0.0
    for bad in ({}, {"pattern": 3}, {"pattern": "("}):
        assert isinstance(matches_regex(Sample("1", row=bad)), Invalid)


def test_a_completion_cannot_make_a_pattern_run_for_ever() -> None:
    started = time.perf_counter()
    row = {"pattern": r"(a|a?)+b"}
    for judge in (matches_format, matches_regex):
        assert judge(Sample("1", completion="a" * 5000 + "c", row=row)) == 0.0
    assert time.perf_counter() - started < 8
