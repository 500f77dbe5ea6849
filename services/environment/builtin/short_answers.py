r"""`gsm8k`, `choice`, `exact`: one short answer, of three kinds.

    {"answer": "48 / 2 = 24 ... #### 72"}                 gsm8k: the number after the last ####, as the data set has it
    {"answer": "B"} or {"answer": 1, "choices": [...]}     choice: a letter, or an index into the choices
    {"answer": "Paris"} or {"answer": ["NYC", "New York"]} exact: a text, or one of several

The completion's: `gsm8k` takes what stands after its last `####`, else what `\boxed{…}` or "answer is" marks, else the
last number; `choice` the marked letter, else the only letter of the last line; `exact` what stands between answer tags,
else all of it after the thinking. A row that has no such answer is invalid.
"""

from __future__ import annotations

import re
import unicodedata

from penstock.sdk import Invalid, Sample, Scored, reward
from services.environment.answers.final import equal, final_answer, number

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARKED = re.compile(r"\\boxed\s*\{\s*\{?([^{}]*)\}|\banswer(?:\s+is\s*:?|\s*[:=])([^\n]*)", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"(?<![A-Za-z0-9'])\(?([A-Z])(?:\)|(?![A-Za-z0-9']))")
_ARTICLES = re.compile(r"\b(?:A|I)\s+(?!or\b|and\b|is\b)(?=[a-z])")  # "A dog", "I think": no letters of choices
_SCANNED = 4096


@reward(minimum=0.0, maximum=1.0, timeout=5)
def gsm8k(sample: Sample) -> Scored | Invalid:
    """Is the final number the one after `####` in the row's `answer`?"""
    gold = str(sample.row.get("answer", "")).rpartition("####")[2].strip()
    if number(gold) is None:
        return Invalid(f"the row's answer ends with {gold!r:.80}, which is no number")
    text = sample.completion[-_SCANNED:]
    stated = text.rpartition("####")[2].partition("\n")[0] if "####" in text else ""
    first = re.search(r"[-\u2212]?[\d,]*\.?\d+", stated)  # "#### 72 and not 73": what follows explains
    found = final_answer(first[0] if first else text)
    return Scored(float(equal(found, gold)), {}, found or None)


@reward(minimum=0.0, maximum=1.0, timeout=5)
def choice(sample: Sample) -> Scored | Invalid:
    """Is the chosen letter the row's `answer`?"""
    choices = sample.row.get("choices")
    count = len(choices) if isinstance(choices, list | dict) else len(LETTERS)
    gold = sample.row.get("answer")
    if isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < min(count, len(LETTERS)):
        gold = LETTERS[gold]
    letter = str(gold).strip(" ().").upper()
    if len(letter) != 1 or letter not in LETTERS[:count]:
        return Invalid(f"the row's answer {gold!r:.80} is no letter of a choice")
    found = chosen(sample.completion, LETTERS[:count])
    return Scored(float(found == letter), {"parsed": float(found is not None)}, found)


def chosen(completion: str, letters: str) -> str | None:
    """The letter that a text chooses; None if it names none, or several."""
    text = completion[-_SCANNED:].replace("\\text", "").replace("\\mathrm", "").replace("\\textbf", "")
    tagged = _ANSWER.findall(text)
    said = [found[1] or found[2] or "" for found in _MARKED.finditer(text)]
    lines = [line for line in text.splitlines() if line.strip()]
    marked = (tagged or said or lines or [""])[-1]
    marked = re.sub(r"[*_{}$\\]", " ", marked)
    alone = marked.strip(" ().:")
    if len(alone) == 1 and alone.upper() in letters:
        return alone.upper()
    named = {each for each in _LETTER.findall(_ARTICLES.sub(" ", marked)) if each in letters}
    return named.pop() if len(named) == 1 else None


@reward(minimum=0.0, maximum=1.0, timeout=5)
def exact(sample: Sample) -> float | Invalid:
    """Is the answer the row's `answer`, or one of them, without regard to case, spaces and stops?"""
    gold = sample.row.get("answer")
    golds = gold if isinstance(gold, list) else [gold]
    wanted = {normalised(str(each)) for each in golds if isinstance(each, str | int | float)} - {""}
    if not wanted or any(not isinstance(each, str | int | float) for each in golds):
        return Invalid(f"the row's answer {gold!r:.80} is no text, and no list of texts")
    text = sample.completion.rpartition("</think>")[2]
    tagged = _ANSWER.findall(text)
    return float(normalised(tagged[-1] if tagged else text) in wanted)


def normalised(text: str) -> str:
    """Words as they are compared: without case, compatibility forms, repeated spaces, quotes and stops at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .!\"'`*")
