from __future__ import annotations

from typing import Any

import pytest

from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.ifeval import KNOWN, ifeval

CASES: list[tuple[str, dict[str, Any], str, str]] = [  # constraint, arguments, kept, broken
    ("keywords:existence", {"keywords": ["sun", "rain"]}, "Rain or sun", "Rain or sunny"),
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "at least"}, "a b a", "a b"),
    ("keywords:forbidden_words", {"forbidden_words": ["no"]}, "not", "No!"),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "less than"}, "Q", "qQ"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b c", "a b"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "One.", "One. Two!"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "Dear [name]", "Dear name"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\nP.S. b", "a"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* **b**", "*a* ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 a Section 2 b",
        "Section 1",
    ),
    ("detectable_format:title", {}, "<<T>>\na", "<< >>"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "no"),
    ("combination:two_responses", {}, "a******b", "a******a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "Say hi\nhi", "hi"),
    ("startend:end_checker", {"end_phrase": "Bye now."}, "a. bye now.", "bye now. a"),
    ("startend:quotation", {}, '"a"', 'a "b"'),
    ("change_case:english_capital", {}, "A B!", "A b"),
    ("change_case:english_lowercase", {}, "a b!", "A b"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "at most"},
        "a B c",
        "A B c",
    ),
    ("punctuation:no_comma", {}, "a b", "a, b"),
]


def judged(names: Any, given: Any, text: str, **row: Any) -> Scored | Invalid:
    found = ifeval(Sample("1", completion=text, row={"instruction_id_list": names, "kwargs": given, **row}))
    assert isinstance(found, Scored | Invalid)
    return found


def test_every_known_constraint_has_a_case() -> None:
    assert [name for name, *_ in CASES] == list(KNOWN)


@pytest.mark.parametrize(("name", "given", "kept", "broken"), CASES, ids=[name for name, *_ in CASES])
def test_constraints(name: str, given: dict[str, Any], kept: str, broken: str) -> None:
    assert judged([name], [given], kept) == Scored(1.0, {"followed": 1.0})
    assert judged([name], [given], broken) == Scored(0.0, {"followed": 0.0})
    assert judged([name], [given], "") == Scored(0.0, {"followed": 0.0})


def test_all_or_the_share() -> None:
    both = ["punctuation:no_comma", "change_case:english_lowercase"]
    assert judged(both, [{}, None], "a, b") == Scored(0.0, {"followed": 0.5})
    assert judged(both, [{}, None], "a, b", score="share") == Scored(0.5, {"followed": 0.5})


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (None, []),
        ([], []),
        (["no:such"], [{}]),
        (["keywords:existence"], [{}]),
        (["keywords:existence"], [{"keywords": 3}]),
        (["keywords:frequency"], [{"keyword": "a", "frequency": 1, "relation": "about"}]),
        (["punctuation:no_comma"], []),
    ],
)
def test_rows_that_cannot_be_judged_are_invalid(names: Any, given: Any) -> None:
    assert isinstance(judged(names, given, "text"), Invalid)
