r"""`math`: is the final answer mathematically equal to the row's?

The row's `answer` is LaTeX or plain text, or a number; it is read as an answer, whole, never searched for a number.
The completion's answer is the last `\boxed{…}`, else what follows `####` or "answer is", else the last formula, else
the last number. Both are compared by `forms.py`: by value where they are mathematics, as text where they are not.

A row without a usable answer is invalid. Whatever the completion holds is never invalid: what cannot be read, is too
large to have a value here (`9^{9^{9^9}}`), or is nested beyond reading, is wrong, or a model could choose to be
unjudged rather than wrong.
"""

from __future__ import annotations

import re

from penstock.sdk import Invalid, Sample, Scored, reward
from services.environment.answers.expressions import LONGEST
from services.environment.answers.final import final_answer, marked_answer
from services.environment.answers.forms import same

_SCANNED = 4096
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$|\\\(((?:[^\\]|\\(?!\)))+)\\\)|\\\[((?:[^\\]|\\(?!\]))+)\\\]"
)
_FOLLOWED = re.compile(r"(\\?\$?-?[\d,]*\.?\d+)[.,;:]?\s+(?:because|since|as|which|so|where)\b.*", re.DOTALL)


@reward(name="math", minimum=0.0, maximum=1.0, timeout=20)
def mathematics(sample: Sample) -> Scored | Invalid:
    """Is the final answer equal to the row's `answer`? Component `parsed`: an answer was found."""
    gold = sample.row.get("answer")
    if isinstance(gold, bool) or not isinstance(gold, str | int | float) or not str(gold).strip(" .$"):
        return Invalid(f"the row's answer {gold!r:.80} is neither a text nor a number")
    expected = _unboxed(str(gold))
    if len(expected) > LONGEST:
        return Invalid(f"the row's answer has {len(expected)} characters; at most {LONGEST} can be judged")
    found = the_answer(sample.completion)
    if not found:
        return Scored(0.0, {"parsed": 0.0})
    right = same(expected, found)
    return Scored(float(right), {"parsed": 1.0}, "equal to the row's" if right else found)


def the_answer(completion: str) -> str:
    """The answer of a completion; empty if there is none."""
    marked = marked_answer(completion)
    if marked is not None:
        formulas = _formulas(marked)
        if len(formulas) == 1 and not re.search(r"\d", _FORMULA.sub("", marked)):
            return formulas[0]
        followed = _FOLLOWED.fullmatch(marked.strip().strip("*"))
        return followed[1] if followed else marked.strip().strip("*").strip()
    formulas = _formulas(completion[-_SCANNED:])
    return formulas[-1] if formulas else final_answer(completion)


def _formulas(text: str) -> list[str]:
    return [next(group for group in found.groups() if group is not None) for found in _FORMULA.finditer(text)]


def _unboxed(gold: str) -> str:
    marked = marked_answer(gold) if gold.strip().startswith("\\boxed") or "####" in gold else None
    return marked or gold
