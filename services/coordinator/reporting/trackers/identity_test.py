"""A run has one id for its trackers, made at its first start."""

import datetime
import pathlib
import re

from services.coordinator.reporting.trackers.identity import Notes, made_id

AT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, datetime.UTC)


def test_the_id_is_made_once_and_holds_user_host_and_time(tmp_path: pathlib.Path) -> None:
    assert made_id("my run", "ann@b", "h1.example.org", AT) == "my-run-ann-b-h1-20260304T050607000089"
    assert len(made_id("r" * 500, "u", "h", AT)) <= 128
    first = Notes(tmp_path, "r")
    assert re.fullmatch(r"r-[\w\-]+-\d{8}T\d{12}", first.id)
    assert Notes(tmp_path, "r").id == first.id


def test_what_a_tracker_has_is_known_to_the_next_process(tmp_path: pathlib.Path) -> None:
    notes = Notes(tmp_path, "r")
    notes.took_step("a", 7)
    notes.took_evaluation("a", 4)
    notes.took_evaluation("a", 0)
    again = Notes(tmp_path, "r")
    assert (again.step("a"), again.evaluations("a")) == (7, frozenset({0, 4}))
    assert (again.step("b"), again.evaluations("b")) == (0, frozenset())
