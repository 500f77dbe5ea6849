import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.names import RunNames, family, ledger_key, log_key

TOKENS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
NUMBERS = st.integers(0, 2**63)


@given(TOKENS, TOKENS, NUMBERS)
def test_what_is_built_is_parsed_back(run: str, group: str, number: int) -> None:
    names = RunNames(run)
    assert log_key(names.log_subject(group, number)) == (group, number)
    assert ledger_key(names.ledger_group_subject(group)) == ("group", group)
    for kind, subject in (
        ("batch", names.ledger_batch_subject(number)),
        ("step", names.ledger_step_subject(number)),
        ("eval", names.ledger_eval_subject(number)),
    ):
        assert ledger_key(subject) == (kind, str(number))
    assert family(names.log_subject(group, number)) == names.subjects("log").removesuffix(".>")
    assert family(names.ledger_step_subject(number)) == names.subjects("ledger").removesuffix(".>")
    assert family(names.task_subject("train", group)) == names.subjects("task").removesuffix(".>")
    assert family(names.blob_subject(group, number)) == names.subjects("blob").removesuffix(".>")


@given(st.one_of(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=6).map(".".join)))
def test_another_subject_is_refused(text: str) -> None:
    for subject in (text, f"penstock.{text}", f"penstock.r.{text}", f"penstock.r.log.{text}.x", f"{text}.r.ledger"):
        for parse in (log_key, ledger_key):
            try:
                parse(subject)
            except ValueError:
                continue
            assert parse is log_key and subject.startswith("penstock.") or ".ledger." in subject


def test_names_of_a_run() -> None:
    names = RunNames("sort-1")
    assert names.tasks == "TASKS_sort-1"
    assert names.log == "LOG_sort-1"
    assert names.ledger == "LEDGER_sort-1"
    assert names.task_subject("train", "g7") == "penstock.sort-1.task.train.g7"
    assert names.log_subject(7, 0) == "penstock.sort-1.log.7.0"
    assert names.ledger_group_subject("g7") == "penstock.sort-1.ledger.group.g7"
    assert names.ledger_batch_subject(3) == "penstock.sort-1.ledger.batch.3"


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "a b", "-a", "x" * 65, "ü", "a\nb"])
def test_a_name_that_could_reach_another_run_is_refused(bad: str) -> None:
    with pytest.raises(ValueError):
        RunNames(bad)
    with pytest.raises(ValueError):
        RunNames("ok").task_subject("train", bad)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError):
        RunNames("r").log_subject("g", -1)
    with pytest.raises(ValueError):
        RunNames("r").ledger_step_subject(-1)
