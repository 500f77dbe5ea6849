from __future__ import annotations

from typing import Any

import pytest

from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.short_answers import choice, exact, gsm8k


def value(judge: Any, answer: object, completion: str, **row: object) -> float | None:
    found = judge(Sample("1", completion=completion, row={"answer": answer, **row}))
    return None if isinstance(found, Invalid) else found.value if isinstance(found, Scored) else float(found)


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("48/2 = 24\n48+24 = 72\n#### 72", "so 72\n#### 72", 1),
        ("#### 72", "#### 73 and not 72", 0),
        ("#### 1,200", "I get $1200.", 1),
        ("#### 72", r"\boxed{72}", 1),
        ("#### 72", "The answer is 72 clips.", 1),
        ("#### 72", "72, then 71", 0),
        ("72", "", 0),
        ("#### -5", "#### \u22125", 1),
        ("#### many", "#### 72", None),
        (None, "#### 72", None),
    ],
)
def test_gsm8k(gold: object, completion: str, right: float | None) -> None:
    assert value(gsm8k, gold, completion) == right


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("B", "B", 1),
        ("B", "b)", 1),
        ("(B)", r"\boxed{\text{B}}", 1),
        ("B", "The answer is (B) Paris.", 1),
        ("B", "A is wrong.\nAnswer: **B**", 1),
        ("B", "<answer>B</answer>", 1),
        ("B", "A dog barks, so I choose B.", 1),
        ("B", "The answer is A or B.", 0),
        ("B", "I think C", 0),
        ("B", "", 0),
        (1, "B", 1),
        (True, "B", None),
        ("Paris", "B", None),
        (9, "B", 0),
    ],
)
def test_choice(gold: object, completion: str, right: float | None) -> None:
    assert value(choice, gold, completion) == right


def test_choices_bound_the_letters() -> None:
    assert value(choice, "E", "E", choices=["a", "b"]) is None
    assert value(choice, 1, "The answer is B, as Euler's E says", choices=["a", "b"]) == 1


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("Paris", " paris. ", 1),
        (["NYC", "New York"], "new  york", 1),
        ("Paris", "<think>Rome?</think>\nParis", 1),
        ("Paris", "So: <answer>Paris</answer>", 1),
        ("Paris", "Paris, Texas", 0),
        (42, "42", 1),
        ("", "", None),
        (None, "None", None),
        ([{}], "", None),
    ],
)
def test_exact(gold: object, completion: str, right: float | None) -> None:
    assert value(exact, gold, completion) == right
