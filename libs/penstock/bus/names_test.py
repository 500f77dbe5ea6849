import pytest

from penstock.bus.names import RunNames


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
