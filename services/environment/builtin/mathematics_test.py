r"""`math`: the cases of the field (`testdata/math.jsonl`), more of each kind, and completions that attack it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.mathematics import mathematics

CASES = [
    json.loads(line) for line in Path(__file__).with_name("testdata").joinpath("math.jsonl").read_text().splitlines()
]
RIGHT = [
    ("-5", "\\boxed{\u22125}"),
    ("0.5", r"\boxed{.5}"),
    (r"\frac{3}{4}", r"First \boxed{1}, no: \boxed{\dfrac{3}{4}}"),
    ("5", r"\boxed{5 \text{ apples}}"),
    ("5 cm", r"\boxed{5\,\mathrm{cm}}"),
    ("5 cm", r"\boxed{5 centimeters}"),
    ("12 cm^2", r"\boxed{12\text{ cm}^2}"),
    ("3:45 PM", r"\boxed{3:45\text{ pm}}"),
    ("3:4", r"\boxed{3 : 4}"),
    ("2516_8", r"\boxed{2516_{8}}"),
    ("11_2", r"\boxed{11_{\text{two}}}"),
    ("x \\in [-2,7]", r"\boxed{-2 \le x \le 7}"),
    ("x \\in [-2,7]", r"\boxed{[-2, 7]}"),
    ("x \\le 5", r"\boxed{(-\infty, 5]}"),
    ("5 \\ge x", r"\boxed{x \leq 5}"),
    (r"(-\infty,-1)\cup(3,\infty)", r"\boxed{x<-1 \text{ or } x>3}"),
    (r"(-\infty,-1)\cup(3,\infty)", r"\boxed{(3,\infty) \cup (-\infty,-1)}"),
    (r"\{1,2,3\}", r"\boxed{3, 2, 1}"),
    ("1 and 2", r"\boxed{2 \text{ and } 1}"),
    (r"1 \pm \sqrt{19}", r"\boxed{1+\sqrt{19}, 1-\sqrt{19}}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\boxed{\begin{bmatrix} 1&2\\3&\frac{8}{2} \end{bmatrix}}"),
    ("y = 2x + 3", r"\boxed{y = 3+2x}"),
    ("x^2+y^2=1", r"\boxed{1 = y^2 + x^2}"),
    ("(x+1)^2", r"\boxed{x^2+2x+1}"),
    (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt 2}}"),
    ("50%", r"\boxed{0.5}"),
    ("50%", r"\boxed{50}"),
    ("$18.90", r"\boxed{\$18.9}"),
    ("1,234,567", r"\boxed{1234567}"),
    ("1e3", r"\boxed{1e3}"),
    ("C", r"\boxed{(C)}"),
    ("blue", r"\boxed{\textbf{Blue}}"),
    ("72", "48+24 = 72\n#### 72"),
    ("3", "The final answer is **3**."),
    ("3", "The answer is 3, because 1+2=3."),
    (r"\frac{1}{2}", r"so the answer is $\frac{2}{4}$"),
    ("7", "I get 7"),
    ("-\\frac{5}{2}", r"\boxed{-2\frac{1}{2}}"),
    ("10^{10^{10}}", r"\boxed{10^{10^{10}}}"),
]
WRONG = [
    (r"\frac{1}{2}", r"\boxed{2}"),
    ("6", r"\boxed{2(4)}"),
    ("7", r"\boxed{3 4}"),
    ("no", r"\boxed{on}"),
    ("east", r"\boxed{seat}"),
    ("5 cm", r"\boxed{5\text{ m}}"),
    ("5 cm", r"\boxed{5\text{ cm}^2}"),
    ("$5", r"\boxed{€5}"),
    ("5", r"\boxed{5 million}"),
    ("3:45", r"\boxed{3:54}"),
    ("3:4", r"\boxed{0.75, 1}"),
    ("2516_8", r"\boxed{2516_9}"),
    ("x < 5", r"\boxed{x \le 5}"),
    ("x < 5", r"\boxed{x > 5}"),
    ("x < 5", r"\boxed{y < 5}"),
    ("[1,2]", r"\boxed{(1,2)}"),
    ("(1,2)", r"\boxed{1,2}"),
    ("1,2", r"\boxed{1,2,3}"),
    ("1,1,2", r"\boxed{1,2,2}"),
    ("x=5,y=6", r"\boxed{6,5}"),
    ("x = 5", r"\boxed{y = 5}"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 2 & 1 \end{pmatrix}}"),
    ("10^{-7}", r"\boxed{2 \cdot 10^{-7}}"),
    ("2\\frac{1}{2}\\pi", r"\boxed{\pi}"),
    ("1/2", r"\boxed{0.5\%}"),
    ("50%", r"\boxed{0.05}"),
    ("5", r"\boxed{5 \text{ or } 6}"),
    ("5", r"\boxed{5} or maybe \boxed{6}"),
    ("5", r"\boxed{5} \boxed{"),
    ("Evelyn", r"\boxed{Evelyn or Tom}"),
    ("10^{10^{10}}", r"\boxed{10^{10^{11}}}"),
    ("|x|", r"\boxed{x}"),
]
BOMBS = [
    "9^{9^{9^9}}",
    "10^{10^10}",
    "99999999!",
    "(((9!)!)!)!",
    r"\binom{1000000000}{500000000}",
    "{" * 5000 + "}" * 5000,
    "(" * 900 + ")" * 90,
    "1" + "!" * 900,
    "1" + "+1" * 490,
    "9" * 5000,
    r"\frac" * 300,
    r"\begin{pmatrix}" * 60 + r"\end{pmatrix}" * 60,
    "1," * 400,
    "x^{" * 30 + "x" + "}" * 30,
    r"\pm" * 200,
    " " * 900 + "a",
    "a " * 450,
]
ALPHABET = st.sampled_from(
    r"0 1 2 7 9 x e i , . : ; = < ( ) [ ] { } ^ _ ! / - + % $ \frac{ \sqrt{ \pi \boxed{ \text{ \pm \cup \in \le \infty"
    r" \left( \right) \begin{pmatrix} \end{pmatrix} & \\ or and #### answer cm".split()
    + [" ", "\n", "^{9", "\u2212", "\ud800"]
)


def judged(answer: object, completion: str) -> Scored | Invalid:
    found = mathematics(Sample("1", completion=completion, row={"answer": answer}))
    assert isinstance(found, Scored | Invalid)
    return found


def value(answer: object, completion: str) -> float:
    found = judged(answer, completion)
    assert isinstance(found, Scored), found
    return found.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['answer']} {case['completion']}")
def test_cases_of_the_field(case: dict[str, Any]) -> None:
    assert value(case["answer"], case["completion"]) == case["reward"]


@pytest.mark.parametrize(("gold", "completion"), RIGHT)
def test_right_answers_are_paid(gold: str, completion: str) -> None:
    assert value(gold, completion) == 1.0


@pytest.mark.parametrize(("gold", "completion"), WRONG)
def test_wrong_answers_are_not(gold: str, completion: str) -> None:
    assert value(gold, completion) == 0.0


def test_the_answer_is_named_so_that_samples_can_vote() -> None:
    assert judged("4", "$4$") == Scored(1.0, {"parsed": 1.0}, "equal to the row's")
    assert judged("4", "I think it is $3$") == Scored(0.0, {"parsed": 1.0}, "3")
    assert judged("4", "") == Scored(0.0, {"parsed": 0.0})


@pytest.mark.parametrize("gold", [None, "", " ", "$$", True, [1], {"a": 1}, "9" * 2000])
def test_an_unusable_row_is_invalid(gold: object) -> None:
    assert isinstance(judged(gold, r"\boxed{1}"), Invalid)
    assert isinstance(mathematics(Sample("1", completion="$1$")), Invalid)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:20])
def test_what_blows_up_is_wrong_at_once_and_never_invalid(bomb: str) -> None:
    started = time.perf_counter()
    for gold in ("4", "(1,2)", "x < 3", "x^2+1", "Evelyn"):
        assert value(gold, rf"\boxed{{{bomb}}}") == 0.0
        assert value(gold, f"The answer is {bomb}") == 0.0
    assert time.perf_counter() - started < 5


GOLDS = ("7/3", r"2\sqrt{3}", "(1, 5)", r"x \le 8", "Evelyn", "34_8", "3, -8")


@settings(max_examples=400, deadline=3000)
@given(st.sampled_from(GOLDS), st.lists(ALPHABET, max_size=60).map("".join) | st.text(max_size=200))
def test_no_completion_is_paid_for_a_wrong_answer(gold: str, completion: str) -> None:
    """No alphabet here can write these answers: none has a 3, 4, 5 or 8 in it, nor these letters."""
    for text in (completion, rf"\boxed{{{completion}}}"):
        found = judged(gold, text)
        assert isinstance(found, Scored)
        if not set("3458lE") & set(completion) and completion.isascii():
            assert found.value == 0.0
