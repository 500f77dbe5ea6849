"""`ifeval`: does the completion keep the constraints that can be checked? Rows as google/IFEval has them.

    {"instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
     "kwargs": [{"relation": "at least", "num_words": 300}, {}]}

1 if every constraint is kept; with `"score": "share"` the share that is. Component `followed`: the share. `KNOWN` has
those that are judged here; a row with another one, or with arguments missing, is invalid and named. The definitions are
of "Instruction-Following Evaluation for Large Language Models" (Zhou et al. 2023), judged strictly; sentences are told
by their stops here, by nltk there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from penstock.sdk import Invalid, Sample, Scored, reward

Given = Mapping[str, Any]
_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "at least": lambda found, wanted: found >= wanted,
    "less than": lambda found, wanted: found < wanted,
    "at most": lambda found, wanted: found <= wanted,
    "exactly": lambda found, wanted: found == wanted,
}
_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _compare(found: int, wanted: Any, relation: Any) -> bool:
    return _RELATIONS[relation](found, int(wanted))


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(str(word))}(?!\w)", re.IGNORECASE)


def _parts(text: str, pattern: str) -> list[str]:
    return [part for part in re.split(pattern, text) if part.strip()]


def _json(text: str) -> bool:
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


KNOWN: dict[str, Callable[[str, Given], bool]] = {
    "keywords:existence": lambda text, given: all(_word(word).search(text) for word in given["keywords"]),
    "keywords:frequency": lambda text, given: _compare(
        len(_word(given["keyword"]).findall(text)), given["frequency"], given["relation"]
    ),
    "keywords:forbidden_words": lambda text, given: not any(_word(w).search(text) for w in given["forbidden_words"]),
    "keywords:letter_frequency": lambda text, given: _compare(
        text.lower().count(str(given["letter"]).lower()), given["let_frequency"], given["let_relation"]
    ),
    "length_constraints:number_words": lambda text, given: _compare(
        len(re.findall(r"\w+", text)), given["num_words"], given["relation"]
    ),
    "length_constraints:number_sentences": lambda text, given: _compare(
        len(_parts(text, r"(?<=[.!?])[\"')\]]*\s+")), given["num_sentences"], given["relation"]
    ),
    "length_constraints:number_paragraphs": lambda text, given: (
        len(_parts(text, r"\s?\*\*\*\s?")) == int(given["num_paragraphs"])
    ),
    "detectable_content:number_placeholders": lambda text, given: (
        len(re.findall(r"\[[^\[\]]+\]", text)) >= int(given["num_placeholders"])
    ),
    "detectable_content:postscript": lambda text, given: (
        re.search(rf"^\s*{re.escape(given['postscript_marker'])}", text, re.IGNORECASE | re.MULTILINE) is not None
    ),
    "detectable_format:number_bullet_lists": lambda text, given: (
        len(re.findall(r"^\s*(?:\*(?!\*)|-)\s+\S", text, re.MULTILINE)) == int(given["num_bullets"])
    ),
    "detectable_format:number_highlighted_sections": lambda text, given: (
        len(re.findall(r"\*{1,2}[^\n*]*[^\s*][^\n*]*\*{1,2}", text)) >= int(given["num_highlights"])
    ),
    "detectable_format:multiple_sections": lambda text, given: (
        len(re.findall(rf"\s?{re.escape(given['section_spliter'])}\s?\d+\s?", text)) >= int(given["num_sections"])
    ),
    "detectable_format:title": lambda text, given: re.search(r"<<[^\n<>]*[^\s<>][^\n<>]*>>", text) is not None,
    "detectable_format:json_format": lambda text, given: _json(text),
    "detectable_format:constrained_response": lambda text, given: any(each in text for each in _RESPONSES),
    "combination:two_responses": lambda text, given: _two(text),
    "combination:repeat_prompt": lambda text, given: (
        text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda text, given: (
        text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, given: re.fullmatch(r'".+"', text.strip(), re.DOTALL) is not None,
    "change_case:english_capital": lambda text, given: text.isupper(),
    "change_case:english_lowercase": lambda text, given: text.islower(),
    "change_case:capital_word_frequency": lambda text, given: _compare(
        sum(word.isupper() for word in re.findall(r"\w+", text)),
        given["capital_frequency"],
        given["capital_relation"],
    ),
    "punctuation:no_comma": lambda text, given: "," not in text,
}


@reward(minimum=0.0, maximum=1.0, timeout=10)
def ifeval(sample: Sample) -> Scored | Invalid:
    """Are the constraints of the row's `instruction_id_list` and `kwargs` kept? Component `followed`."""
    names, given = sample.row.get("instruction_id_list"), sample.row.get("kwargs")
    if not isinstance(names, list) or not isinstance(given, list) or not names or len(names) != len(given):
        return Invalid("instruction_id_list and kwargs must be lists of one length")
    if sample.row.get("score", "all") not in ("all", "share"):
        return Invalid(f'score must be "all" or "share", not {sample.row["score"]!r:.80}')
    kept = []
    for name, arguments in zip(names, given, strict=True):
        if not isinstance(name, str) or name not in KNOWN:
            return Invalid(f"the constraint {name!r:.80} is not judged here; known: {', '.join(sorted(KNOWN))}")
        try:
            found = KNOWN[name](sample.completion, arguments or {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return Invalid(f"the arguments of {name} are not usable: {type(error).__name__} {error}"[:300])
        kept.append(found and bool(sample.completion.strip()))
    share = sum(kept) / len(kept)
    return Scored(share if sample.row.get("score") == "share" else float(all(kept)), {"followed": share})
