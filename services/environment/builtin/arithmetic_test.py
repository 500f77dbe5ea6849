import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.sdk import Sample, Scored
from services.environment.builtin.arithmetic import arithmetic, solution


def make_problem(rng: random.Random, digits: int) -> dict[str, Any]:
    """A row whose numbers have so many digits."""
    low = 10 ** (digits - 1) if digits > 1 else 0
    left, right = (rng.randrange(low, 10**digits) for _ in range(2))
    return {"prompt": f"{left}+{right}", "answer": str(left + right), "level": digits}


@given(st.integers(1, 12), st.integers())
def test_the_demonstrated_solution_of_a_sum_is_right(level: int, seed: int) -> None:
    row = make_problem(random.Random(seed), level)
    answer = solution(*row["prompt"].split("+"))
    scored = arithmetic(Sample("1", completion=answer, row=row))
    assert scored == Scored(1.0, {"columns": 1.0}, row["answer"])
    wrong = Sample("1", completion=answer + "0", row=row)
    assert arithmetic(wrong).value == (1.0 if row["answer"] + "0" == row["answer"] else 0.0)
