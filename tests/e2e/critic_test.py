"""PPO over the real services: one answer to a prompt, a critic that warms up, a learner that is killed on the way."""

import json
import pathlib

from tests.e2e.testing.runs import adds_up, recipe, training

STEPS, WARM_UP = 8, 2


def test_policy_and_critic_go_on_together_after_the_learner_was_killed(tmp_path: pathlib.Path) -> None:
    critic = {"learning_rate": 1.0e-3, "warmup_steps": WARM_UP}
    path = recipe(tmp_path, steps=STEPS, group_size=1, advantage="gae", critic=critic)
    with training(tmp_path, path) as run:
        run.until_step(5, within=300)
        run.kill("learner")
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and adds_up(summary) and summary["samples"]["trained"] == STEPS * 4
        steps = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert [s["step"] for s in steps] == list(range(1, STEPS + 1))
        assert all("rl.policy.value_explained" in s for s in steps)
        assert ["rl.policy.clip_share" in s for s in steps] == [s["step"] > WARM_UP for s in steps]
        held = json.loads(max((run.run / "checkpoints").glob("step-*")).joinpath("manifest.json").read_text())
        assert held["model"]["critic"]["architecture"] == "Qwen3ForSequenceClassification"
        assert "critic-model-pp0-tp0.pt" in held["files"]
        config = json.loads((run.run / "export" / "config.json").read_text())
        assert config["architectures"] == ["Qwen3ForCausalLM"]
