"""Preference runs over the real services: pairs from a data set, and pairs from the policy's own scored samples."""

import json
import pathlib

from tests.e2e.testing.runs import adds_up, recipe, reward_first_character, training

STEPS = 4


def test_offline_pairs_are_trained_from_a_data_set(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, name="dpo", steps=STEPS, group_size=2, preference={"source": "dataset", "beta": 0.5})
    settings = json.loads(path.read_text())
    settings["data"]["train"] = str(tmp_path / "assets" / "preferences.jsonl")
    path.write_text(json.dumps(settings))
    with training(tmp_path, path) as run:
        assert run.end(within=500) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and adds_up(summary)
        assert summary["samples"]["trained"] == STEPS * 4 * 2 and summary["tokens"]["generated"] == 0
        first = json.loads((run.run / "metrics.jsonl").read_text().splitlines()[0])
        assert abs(first["rl.loss"] - 0.6931) < 1e-3, "the first step starts at the reference: ln 2"
        assert len(summary["eval"]) == 2, "versions are measured also where training generates nothing"


def test_online_pairs_are_made_of_scored_samples_and_groups_without_a_pair_are_filtered(
    tmp_path: pathlib.Path,
) -> None:
    path = recipe(tmp_path, name="dpo", steps=STEPS, group_size=4, groups_per_step=2)
    reward_first_character(path, impossible=5)
    with training(tmp_path, path) as run:
        assert run.end(within=500) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and summary["steps"] == STEPS and adds_up(summary)
        assert summary["samples"]["trained"] == STEPS * 2 * 4 and summary["samples"]["filtered"] > 0
        assert summary["staleness"]["max"] <= 2
