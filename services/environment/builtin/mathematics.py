"""`math`: is the final answer mathematically equal to the row's? Judged by the math-verify library.

The row's `answer` is LaTeX or plain text. A gold answer that cannot be parsed makes the item invalid, not wrong; a
completion that cannot be parsed is wrong. The library's own timeouts are off, because they turn "took too long" into
"wrong": the worker process is killed instead and the item is invalid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from penstock.sdk import Invalid, Sample, Scored, reward


@lru_cache(maxsize=4096)
def _gold(answer: str) -> Any:
    from math_verify import parse

    return parse(answer, parsing_timeout=None) or parse(f"${answer}$", parsing_timeout=None)


@reward(name="math", minimum=0.0, maximum=1.0, timeout=20)
def mathematics(sample: Sample) -> Scored | Invalid:
    """Is the final answer equal to the row's `answer`? Component `parsed`: an answer was found."""
    from math_verify import parse, verify

    gold = _gold(str(sample.row["answer"]))
    if not gold:
        return Invalid(f"the row's answer {sample.row['answer']!r:.80} is no mathematics")
    found = parse(sample.completion, parsing_timeout=None)
    equal = bool(found) and bool(verify(gold, found, timeout_seconds=None))
    # An answer in words after no mathematics is no vote.
    answer = None if not found else "equal to the row's" if equal else str(found[-1])
    return Scored(float(equal), {"parsed": float(bool(found))}, answer)
