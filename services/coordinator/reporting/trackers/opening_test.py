"""A tracker of somebody's package is opened by the name that the package announces, and told like the others."""

import pathlib
import sys
import textwrap

import pytest
import yaml

from penstock.recipes import Recipe, resolve
from penstock.recipes.checks.packages import check_packages
from penstock.tiny_model import make_model
from services.coordinator.reporting.trackers import opening

TRACKER = """
    import json, pathlib

    def open_tracker(run, *, path):
        return Tracker(pathlib.Path(path), run)

    class Tracker:
        def __init__(self, path, run):
            self.path = path
            self.note("open", run.name)

        def note(self, *words):
            with self.path.open("a") as file:
                file.write(json.dumps(words) + "\\n")

        def step(self, step, numbers):
            self.note("step", step, numbers)

        def evaluation(self, step, numbers, texts):
            self.note("evaluation", step, numbers)

        def end(self, state):
            self.note("end", state)
"""


@pytest.fixture
def announced(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "mine-1.0.dist-info").mkdir(parents=True)
    (site / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "[penstock.trackers]\nledger_file = mine_tracker:open_tracker\n"
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(points)
    (site / "mine_tracker.py").write_text(textwrap.dedent(TRACKER))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])


def recipe(folder: pathlib.Path, **trackers: object) -> Recipe:
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "train.jsonl").write_text('{"prompt": "ab"}\n')
    raw = {
        "run": "r",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1, "groups_per_step": 1, "group_size": 2},
        "telemetry": {"tensorboard": False, "trackers": trackers},
    }
    return resolve(yaml.safe_load(yaml.safe_dump(raw)))


@pytest.mark.usefixtures("announced")
def test_a_tracker_of_a_package_is_opened_told_and_ended(tmp_path: pathlib.Path) -> None:
    told = tmp_path / "told"
    made = recipe(tmp_path, ledger_file={"path": str(told)})
    assert check_packages(made) == []
    (tracking,) = opening.trackings(tmp_path, made)
    tracking.step(1, {"train/loss": 0.5})
    tracking.evaluation(1, {"eval/reward": 0.25}, [])
    opening.close([tracking], within=30)
    assert told.read_text().splitlines() == [
        '["open", "r"]',
        '["step", 1, {"train/loss": 0.5}]',
        '["evaluation", 1, {"eval/reward": 0.25}]',
        '["end", "interrupted"]',
    ]


@pytest.mark.usefixtures("announced")
def test_a_tracker_that_no_package_announces_is_refused_with_the_nearest(tmp_path: pathlib.Path) -> None:
    (problem,) = check_packages(recipe(tmp_path, ledger_fiel={}))
    assert "no package where the coordinator runs announces 'ledger_fiel' (there: ledger_file)" in problem


@pytest.mark.usefixtures("announced")
def test_a_setting_that_a_tracker_does_not_have_costs_the_tracking_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tracking,) = opening.trackings(tmp_path, recipe(tmp_path, ledger_file={"pth": "x"}))
    tracking.step(1, {"train/loss": 0.5})
    opening.close([tracking], within=30)
    assert "unexpected keyword argument 'pth'" in caplog.text
