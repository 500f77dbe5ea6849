"""A tracker that is not installed is told before a run starts, and only to those who start it."""

import importlib.util
from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.checks.trackers import check_trackers

ASKED = ["telemetry.wandb_project=a", "telemetry.mlflow_experiment=b"]


def test_a_tracker_that_is_not_installed_is_named_with_what_to_do(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    (problem,) = check_trackers(resolve(raw, ASKED))
    assert problem == (
        "telemetry.wandb_project: the package 'wandb' is not installed where the coordinator runs; add it to "
        "bazel/venvs/light.in and renew the lock (CONTRIBUTING.md), or set the key to null: metrics.jsonl has every "
        "step"
    )


def test_what_is_installed_or_not_asked_for_is_no_problem(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert check_trackers(resolve(raw, ASKED)) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert check_trackers(resolve(raw, ["telemetry.tensorboard=false"])) == []
    assert len(check_trackers(resolve(raw))) == 1
