"""The log of a run is enough to train it again, and a trained model can be measured on its own."""

import json
import pathlib

from tests.e2e.testing.runs import adds_up, gone, penstock, recipe, reward_first_character, training

STEPS = 6


def metrics(run: pathlib.Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def mix_in_a_game(path: pathlib.Path) -> None:
    """Adds a second source of tasks, of several turns and with settings of its own, one group to two of the first."""
    rows = path.with_name("games.jsonl")
    rows.write_text("".join(json.dumps({"low": 0, "high": 3 + i}) + "\n" for i in range(4)))
    data = {"train": str(rows), "eval": str(rows), "curriculum": {"focus": 1.0}}
    game = {"name": "guess_number", "multi_turn": True, "max_turns": 3}
    source = {"name": "game", "weight": 0.5, "data": data, "environment": game, "group_size": 2, "reward_scale": 0.5}
    path.write_text(json.dumps({**json.loads(path.read_text()), "mixture": [source]}))


def test_a_replay_gives_the_same_weights_and_a_change_others(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, steps=STEPS)
    reward_first_character(path)
    mix_in_a_game(path)
    with training(tmp_path, path) as run:
        assert run.end(within=500) == 0, run.report("the run failed")
        assert run.summary()["samples"]["failed"] == 0, "an episode that is cut off is truncated, not failed"
    runs = tmp_path / "runs"
    weights = (runs / "r" / "export" / "model.safetensors").read_bytes()
    assert weights != (tmp_path / "assets" / "model" / "model.safetensors").read_bytes(), "the run learned nothing"

    same = penstock(tmp_path, "replay", "r", within=300)
    assert same.returncode == 0, same.stdout
    again = runs / "r-replay"
    assert (again / "export" / "model.safetensors").read_bytes() == weights, "a replay must be bit-identical"
    assert [m["rl.loss"] for m in metrics(again)] == [m["rl.loss"] for m in metrics(runs / "r")]
    summary = json.loads((again / "summary.json").read_text())
    assert summary["status"] == "done" and summary["steps"] == STEPS and adds_up(summary)
    assert {"rl.reward.source.game", "rl.reward.source.sort_characters"} <= {key for m in metrics(again) for key in m}
    assert not list((again / "logs").glob("generation*")), "a replay generates nothing"

    other = penstock(tmp_path, "replay", "r", "learner.optimizer.learning_rate=1.0e-3", "--as", "faster", within=300)
    assert other.returncode == 0, other.stdout
    assert (runs / "faster" / "export" / "model.safetensors").read_bytes() != weights
    first, changed = metrics(runs / "r")[0], metrics(runs / "faster")[0]
    assert changed["rl.reward.mean"] == first["rl.reward.mean"], "the same samples were trained"

    refused = penstock(tmp_path, "replay", "r", "sampling.temperature=0.5", "--as", "x", within=60)
    assert refused.returncode == 2 and "a replay trains what was recorded" in refused.stdout

    refused = penstock(tmp_path, "export", "r", "--step", "5", within=60)
    assert refused.returncode == 2 and "no checkpoint of step 5 (steps: 4, 6)" in refused.stdout
    checkpoint = runs / "r" / "checkpoints" / "step-000006"
    measured = penstock(tmp_path, "eval", str(path), "--model", str(checkpoint), within=300)
    assert measured.returncode == 0 and "pass@1" in measured.stdout, measured.stdout
    assert (runs / "r" / "export-step-000006" / "model.safetensors").read_bytes() == weights
    result = json.loads((runs / "r-eval-r-step-000006" / "summary.json").read_text())
    assert [e["version"] for e in result["eval"]] == [0] and result["samples"]["admitted"] == 0
    assert all(gone(folder, within=30) for folder in runs.iterdir())
