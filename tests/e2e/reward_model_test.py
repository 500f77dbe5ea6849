"""A reward model over the real services: trained on pairs, served by a process of the next run, trained against; and
what the learner measures on held-out rows by itself, early stop included."""

import json
import pathlib
from typing import Any

import pyarrow.parquet

from tests.e2e.testing.runs import Running, adds_up, recipe, training

STEPS = 6


def changed(path: pathlib.Path, **settings: Any) -> pathlib.Path:
    """A recipe with sections replaced; None takes one away."""
    raw = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))
    return path


def metrics(run: Running) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]


def test_a_reward_model_is_trained_served_and_trained_against(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    path = recipe(first, name="reward_model", steps=STEPS, group_size=2, groups_per_step=8)
    assets = first / "assets"
    data = {"train": str(assets / "preferences.jsonl"), "eval": str(assets / "preferences-eval.jsonl")}
    with training(first, changed(path, data=data, environment=None, evaluation={"every": 3, "tasks": 32})) as run:
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and adds_up(summary) and summary["samples"]["trained"] == STEPS * 8 * 2
        assert [(e["step"], set(e)) for e in summary["eval"]] == [
            (step, {"step", "version", "loss", "accuracy", "margin", "reward_mean"}) for step in (0, 3, STEPS)
        ]
        assert abs(summary["eval"][0]["loss"] - 0.6931) < 1e-3, "a new score orders nothing: ln 2"
        measured = [m["step"] for m in metrics(run) if "rl.validation.accuracy" in m]
        assert measured == [3, STEPS] and metrics(run)[2]["rl.validation.loss"] == summary["eval"][1]["loss"]
        export = run.run / "export"
        assert json.loads((export / "config.json").read_text())["architectures"] == ["Qwen3ForSequenceClassification"]
    path = recipe(second, steps=2, groups_per_step=2)
    rewards = [
        {"name": "preference", "model": {"path": str(export)}, "timeout_seconds": 120},
        {"name": "sort_characters", "weight": 0.0},
    ]
    environment = {"name": "sort_characters", "rewards": rewards}
    evaluation = {"tasks": 4, "reward": "sort_characters"}
    with training(second, changed(path, environment=environment, evaluation=evaluation)) as run:
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and adds_up(summary) and summary["samples"]["failed"] == 0
        for m in metrics(run):
            said, checked = m["rl.reward.component.preference"], m["rl.reward.component.sort_characters"]
            assert m["rl.reward.mean"] == said and checked in (0.0, 1.0) and said not in (0.0, 1.0)
        for e in summary["eval"]:
            assert e["reward"] == e["component.sort_characters"] and "component.preference" in e


def test_the_held_out_loss_ends_a_supervised_run_early(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, name="sft", steps=200, group_size=4)
    assets = tmp_path / "assets"
    rows = [json.loads(line) for line in (assets / "sft.jsonl").read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), assets / "sft.parquet")
    data = {"train": str(assets / "sft.parquet"), "eval": str(assets / "sft-eval.jsonl"), "completion": "{target}"}
    evaluation = {"every": 4, "tasks": 16, "target_loss": 3.2}
    learner = {"optimizer": {"learning_rate": 2.0e-3}, "checkpoints": {"every": 50}}
    made = changed(path, data=data, environment=None, evaluation=evaluation, learner=learner)
    with training(tmp_path, made) as run:
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and "loss" in summary["reason"] and summary["steps"] < 200
        losses = [e["loss"] for e in summary["eval"]]
        assert losses[0] > 3.2 >= losses[-1] and len(losses) > 1
        assert (run.run / "export" / "model.safetensors").is_file()
