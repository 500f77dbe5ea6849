"""An agent with a tool over the real services: it calls the policy by OpenAI's API, which is trained on its own words.

Supervised training on the conversation as the agent has it, then GRPO through the gateway: what the policy draws at
temperature 1 is mostly a call that the agent answers, and an answer.
"""

import json
import pathlib
import statistics

from penstock.tiny_model import make_model
from tests.e2e.testing.runs import adds_up, training

ROW = {"question": "what is 17 * 23?", "answer": "391"}
CALL = '<tool_call>{"name": "calculate", "arguments": {"expression": "17 * 23"}}</tool_call>'
CALLS = "rl.reward.component.calculator_agent.calls"
STEPS = 4


def conversation() -> list[dict[str, str]]:
    """A good one, as the agent has it."""
    said = (("user", ROW["question"]), ("assistant", CALL), ("tool", "391"), ("assistant", "391"))
    return [{"role": role, "content": content} for role, content in said]


def recipe(folder: pathlib.Path, name: str, model: pathlib.Path, **settings: object) -> pathlib.Path:
    path = folder / f"{name}.yaml"
    everything = {
        "run": "r",
        "model": {"path": str(model)},
        "staleness": {"max_versions": 2},
        "learner": {"checkpoints": {"every": 50}, "optimizer": {"learning_rate": 3.0e-3, "warmup_steps": 5}},
        "generation": {"max_running": 64, "max_context": 512},
        "telemetry": {"tensorboard": False},
    }
    path.write_text(json.dumps({**everything, **settings}))
    return path


def test_an_agent_with_a_tool_is_trained_on_the_models_words_alone(tmp_path: pathlib.Path) -> None:
    model, by_heart, rows = tmp_path / "model", tmp_path / "sft.jsonl", tmp_path / "rows.jsonl"
    make_model(model, hidden=64, layers=2, heads=2, kv_heads=1, intermediate=256, context=512)
    by_heart.write_text((json.dumps({"messages": conversation()}) + "\n") * 8)
    rows.write_text((json.dumps(ROW) + "\n") * 8)

    learning = {"name": "sft", "steps": 150, "groups_per_step": 1, "group_size": 4}
    (tmp_path / "sft").mkdir()
    warm_up = recipe(tmp_path, "sft", model, data={"train": str(by_heart)}, algorithm=learning)
    with training(tmp_path / "sft", warm_up) as run:
        assert run.end(within=300) == 0, run.report("the warm-up failed")
        start = run.run / "export"

    playing = recipe(
        tmp_path,
        "grpo",
        start,
        data={"train": str(rows), "eval": str(rows)},
        environment={"name": "calculator_agent", "agent": True, "max_turns": 4, "tool_calls": "hermes", "workers": 4},
        algorithm={"name": "grpo", "steps": STEPS, "groups_per_step": 2, "group_size": 4},
        sampling={"max_tokens": 120},
        evaluation={"tasks": 4},
        learner={"optimizer": {"learning_rate": 1.0e-5}, "micro_batch_tokens": 2048},
    )
    with training(tmp_path, playing) as run:
        assert run.end(within=300) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and adds_up(summary), summary
        steps = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    rewards = [s["rl.reward.mean"] for s in steps]
    assert statistics.fmean(rewards) > 0.5, f"most samples call the calculator and give its answer, not {rewards}"
    assert all(s[CALLS] > 0 for s in steps), "the agent answered calls"
    flawless = [s["rl.completion.length.mean"] for s in steps if s["rl.reward.mean"] == s[CALLS] == 1.0]
    assert all(length == len(CALL) + len("391") + 2 for length in flawless), "call and answer, each with its end"
    for s in steps:
        trained = s["rl.policy.tokens"] / s["rl.samples.trained"]
        assert trained == s["rl.completion.length.mean"], "the agent's words are not trained"
        assert s["rl.tokens.trained"] / s["rl.samples.trained"] > trained, "they are read"
