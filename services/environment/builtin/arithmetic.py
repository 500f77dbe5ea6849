"""`arithmetic`: additions of several digits, with a scratchpad, in graded difficulty.

A row is `{"prompt": "47+85", "answer": "132", "level": 2}`; `level` is the number of digits. The completion may work
column by column first (`7+5+0=12;4+8+1=13;`) and ends with `#` and the answer; only the answer counts for the value,
the scratchpad's correct columns are a component, so that their curve can be watched.
"""

from __future__ import annotations

from penstock.sdk import Sample, Scored, reward


@reward(minimum=0.0, maximum=1.0, timeout=5)
def arithmetic(sample: Sample) -> Scored:
    """Is the sum after '#' right? Component `columns`: share of right scratchpad columns."""
    scratchpad, _, answer = sample.completion.rpartition("#")
    left, right = str(sample.row["prompt"]).split("+")
    expected = solution(left, right).partition("#")[0].rstrip(";").split(";")
    written = scratchpad.strip().rstrip(";").split(";")
    right_columns = sum(mine == theirs for mine, theirs in zip(written, expected, strict=False))
    correct = sample.finish_reason == "stop" and answer.strip() == str(int(left) + int(right))
    return Scored(float(correct), {"columns": right_columns / len(expected)}, answer.strip())


def solution(left: str, right: str) -> str:
    """The demonstration: columns from the right, `digit+digit+carry=sum;`, then `#` and the answer."""
    width, carry, columns = max(len(left), len(right)), 0, []
    for a, b in zip(reversed(left.zfill(width)), reversed(right.zfill(width)), strict=True):
        total = int(a) + int(b) + carry
        columns.append(f"{a}+{b}+{carry}={total};")
        carry = total // 10
    return "".join(columns) + f"#{int(left) + int(right)}"
