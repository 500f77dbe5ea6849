"""A tracker that hangs or raises costs the tracking alone, and is told what it has not taken, each once."""

import logging
import pathlib
import threading
import time
from collections.abc import Mapping, Sequence

import pytest

from services.coordinator.reporting.trackers import opening
from services.coordinator.reporting.trackers.identity import Notes
from services.coordinator.reporting.trackers.tracker import Text, Tracker
from services.coordinator.reporting.trackers.tracking import Tracking


class Fake:
    """Writes down what it is told; `fails` are the steps at which it raises, at `hangs` it waits for `go`."""

    def __init__(self, fails: Sequence[int] = (), hangs: int = -1) -> None:
        self.told: list[object] = []
        self.go, self.hanging = threading.Event(), threading.Event()
        self._fails, self._hangs = fails, hangs

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        if step == self._hangs:
            self.hanging.set()
            self.go.wait()
        if step in self._fails:
            raise RuntimeError("the server is away")
        self.told.append(step)

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        self.told.append(("evaluation", step))

    def end(self, state: str) -> None:
        self.told.append(state)


def tracked(folder: pathlib.Path, fake: Tracker, most: int = 100) -> Tracking:
    return Tracking("fake", Notes(folder, "r"), lambda: fake, most)


def test_it_is_told_everything_once_in_order_also_by_the_next_process(tmp_path: pathlib.Path) -> None:
    first, second = Fake(), Fake()
    for fake, steps, state in ((first, (1, 2), ""), (second, (1, 2, 3), "done")):
        tracking = tracked(tmp_path, fake)
        tracking.evaluation(0, {}, [])
        for step in steps:
            tracking.step(step, {})
        if state:
            tracking.end(state)
        tracking.close(60)
    assert first.told == [("evaluation", 0), 1, 2, "interrupted"]
    assert second.told == [3, "done"]


def test_one_that_raises_loses_those_steps_and_says_so_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(fails=(2, 3))
    tracking = tracked(tmp_path, fake)
    for step in (1, 2, 3, 4):
        tracking.step(step, {})
    tracking.close(60)
    assert fake.told == [1, 4, "interrupted"] and tracking.lost == 2
    assert [m for m in caplog.messages if "away" in m] == [
        "fake does not take step 2 and maybe later ones: the server is away"
    ]
    assert "fake lacks 2 steps and evaluations; metrics.jsonl and evaluations.jsonl have them" in caplog.messages


def test_one_that_hangs_makes_nobody_wait_and_what_does_not_fit_is_counted_and_said_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(hangs=1)
    tracking = tracked(tmp_path, fake, most=3)
    tracking.step(1, {})
    assert fake.hanging.wait(60)
    for step in range(2, 12):
        tracking.step(step, {})
    assert tracking.lost == 7
    assert len([m for m in caplog.messages if "does not get everything" in m]) == 1
    began = time.monotonic()
    opening.close([tracking, tracking], within=0.2)
    assert time.monotonic() - began < 30
    assert any("is left behind" in m for m in caplog.messages)
    fake.go.set()


def test_one_that_cannot_be_opened_is_told_nothing(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> Tracker:
        raise ImportError("No module named 'fake'")

    caplog.set_level(logging.WARNING)
    tracking = Tracking("fake", Notes(tmp_path, "r"), fails)
    tracking.step(1, {})
    tracking.close(60)
    assert tracking.lost == 1
    assert "fake cannot be opened, and is not told anything: ImportError: No module named 'fake'" in caplog.messages
