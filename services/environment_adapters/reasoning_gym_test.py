"""Against the library itself: its questions, its answers, its scorer."""

import pytest

from penstock.sdk.samples import Message, Scored
from services.environment_adapters.reasoning_gym import made, reasoning_gym
from services.environment_adapters.unknown import Unknown

SETTINGS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def said(kind: type, row: dict[str, object], text: str, finish: str = "stop") -> Scored:
    episode = kind()
    episode.reset(row, 0)
    result = episode.step(Message("assistant", text), finish).checked().result
    assert isinstance(result, Scored)
    return result


def test_a_task_is_the_librarys_own_and_its_scorer_says_what_an_answer_is_worth() -> None:
    kind = made("chain_sum", SETTINGS)
    theirs = reasoning_gym.create_dataset("chain_sum", seed=0, size=10, **SETTINGS)
    for number in range(10):
        task = theirs[number]
        (asked,) = kind().reset({"index": number}, 5)
        assert asked.content == task["question"]
        for text in (task["answer"], f"I say <answer>{task['answer']}</answer>.", "nothing", ""):
            answer = task["answer"] if "answer>" in text else text
            assert said(kind, {"index": number}, text).value == theirs.score_answer(answer, task)


def test_an_answer_that_was_cut_off_is_none_unless_it_stands_in_tags() -> None:
    kind = made("chain_sum", SETTINGS)
    answer = reasoning_gym.create_dataset("chain_sum", seed=0, size=10, **SETTINGS)[0]["answer"]
    assert said(kind, {"index": 0}, answer).value == 1.0
    assert said(kind, {"index": 0}, answer, "length").value == 0.0
    tagged = said(kind, {"index": 0}, f"<answer>{answer}</answer> and", "length")
    assert (tagged.value, tagged.components, tagged.answer) == (1.0, {"answered": 1.0}, answer)


def test_tasks_that_are_measured_with_are_other_ones() -> None:
    kind = made("chain_sum", {"min_digits": 6, "max_digits": 6, "size": 20})
    trained = {kind().reset({"index": n}, 0)[0].content for n in range(20)}
    held_out = {kind().reset({"index": n, "held_out": True}, 0)[0].content for n in range(20)}
    assert len(trained) == len(held_out) == 20 and not trained & held_out


def test_a_system_prompt_is_the_librarys_by_name_or_a_text() -> None:
    for given, begins in (("direct", "Answer the question directly."), ("Be brief.", "Be brief.")):
        first, _ = made("chain_sum", {"system_prompt": given})().reset({"index": 0}, 0)
        assert first.role == "system" and first.content.startswith(begins)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("chain_sm", {}, r"no data set of reasoning_gym 'chain_sm' here \(did you mean chain_sum\?\)"),
        ("chain_sum", {"max_termz": 1}, r"no 'max_termz' \(did you mean max_terms\?\)"),
        ("zebra_puzzles", {}, "zebra_puzzles wants the package pycosat, which is not here"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "chain_sum refuses them: max_terms must be >= min_terms"),
    ],
)
def test_what_the_library_has_not_is_said_with_the_nearest(name: str, settings: dict[str, int], words: str) -> None:
    with pytest.raises(Unknown, match=words):
        made(name, settings)
