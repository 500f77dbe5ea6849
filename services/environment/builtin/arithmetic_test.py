import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.sdk import Sample, Scored
from services.environment.builtin.arithmetic import LEVELS, arithmetic, make_problem, solution


@given(st.integers(1, LEVELS), st.integers())
def test_the_demonstrated_solution_of_a_sum_is_right(level: int, seed: int) -> None:
    row = make_problem(random.Random(seed), level)
    answer = solution(*row["prompt"].split("+"))
    scored = arithmetic(Sample("1", completion=answer, row=row))
    assert scored == Scored(1.0, {"columns": 1.0}, row["answer"])
    wrong = Sample("1", completion=answer + "0", row=row)
    assert arithmetic(wrong).value == (1.0 if row["answer"] + "0" == row["answer"] else 0.0)
