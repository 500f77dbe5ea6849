"""Tools over the real services: a model that has learnt one question's calls by heart makes them, and is trained on its
own words alone.

Supervised training on the episode as the calculator plays it, then GRPO in that environment: what the policy draws at
temperature 1 is mostly a call that the calculator answers, and an answer.
"""

import json
import pathlib
import statistics

from penstock.sdk import Message
from penstock.tiny_model import make_model
from services.environment.builtin.calculator import Calculator
from tests.e2e.testing.runs import adds_up, training

ROW = {"question": "what is 17 * 23?", "answer": "391"}
CALL = '<tool_call>{"name": "calculate", "arguments": {"expression": "17 * 23"}}</tool_call>'
CALLS = "rl.reward.component.calculator.calls"
STEPS, BUDGET = 4, 160


def episode() -> list[dict[str, str]]:
    """The messages of a good episode, the environment's own words included."""
    calculator = Calculator()
    opening = calculator.reset(ROW, 0)
    observed = calculator.step(Message("assistant", CALL), "stop").messages
    messages = [*opening, Message("assistant", CALL), *observed, Message("assistant", "391")]
    assert [m.role for m in messages] == ["system", "user", "assistant", "tool", "assistant"]
    return [{"role": m.role, "content": m.content} for m in messages]


def recipe(folder: pathlib.Path, name: str, model: pathlib.Path, **settings: object) -> pathlib.Path:
    path = folder / f"{name}.yaml"
    everything = {
        "run": "r",
        "model": {"path": str(model)},
        "staleness": {"max_versions": 2},
        "learner": {"checkpoints": {"every": 50}, "optimizer": {"learning_rate": 3.0e-3, "warmup_steps": 5}},
        "generation": {"max_running": 64, "max_context": 1024},
        "telemetry": {"tensorboard": False},
    }
    path.write_text(json.dumps({**everything, **settings}))
    return path


def test_a_policy_that_calls_tools_is_trained_on_its_own_words_alone(tmp_path: pathlib.Path) -> None:
    model, by_heart, rows = tmp_path / "model", tmp_path / "sft.jsonl", tmp_path / "rows.jsonl"
    make_model(model, hidden=64, layers=2, heads=2, kv_heads=1, intermediate=256, context=1024)
    by_heart.write_text((json.dumps({"messages": episode()}) + "\n") * 8)
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
        environment={"name": "calculator", "multi_turn": True, "max_turns": 3},
        algorithm={"name": "grpo", "steps": STEPS, "groups_per_step": 2, "group_size": 4},
        sampling={"max_tokens": BUDGET, "stop": ["</tool_call>"]},
        evaluation={"tasks": 4},
        learner={"optimizer": {"learning_rate": 1.0e-5}},
    )
    with training(tmp_path, playing) as run:
        assert run.end(within=300) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and adds_up(summary) and summary["samples"]["failed"] == 0
        steps = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    rewards = [s["rl.reward.mean"] for s in steps]
    assert statistics.fmean(rewards) > 0.5, f"most episodes call the calculator and give its answer, not {rewards}"
    assert all(s[CALLS] > 0 for s in steps), "the parts of an episode are reported"
    flawless = [s["rl.completion.length.mean"] for s in steps if s["rl.reward.mean"] == s[CALLS] == 1.0]
    assert flawless and set(flawless) == {len(CALL) + len("391") + 1}, "the call, the answer and its stop token"
    for s in steps:
        trained = s["rl.policy.tokens"] / s["rl.samples.trained"]
        assert trained == s["rl.completion.length.mean"] <= BUDGET, "the environment's words are not trained"
        assert s["rl.tokens.trained"] / s["rl.samples.trained"] > len(episode()[0]["content"]), "they are read"
