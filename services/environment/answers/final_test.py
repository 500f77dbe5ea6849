import pytest

from services.environment.answers.final import equal, final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{\text{a }{b}}", r"\text{a }{b}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        ("it is .5", ".5"),
        ("it is \u22125", "-5"),
        ("#### 72", "72"),
        ("the answer is 7.", "7"),
        (r"\boxed{3", ""),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (".5", "1/2", True),
        ("\u22125", "-5", True),
        ("9 apples", "9", True),
        (r"\sqrt{17}", "17", False),
        ("1e3", "1000", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("Paris", "paris", True),
        ("", "5", False),
    ],
)
def test_answers_are_equal_by_value(answer: str, expected: str, same: bool) -> None:
    assert equal(answer, expected) is same
