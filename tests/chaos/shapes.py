"""Which run is disturbed: recipes of many shapes, by a seed (pure)."""

import json
import pathlib
import random
from typing import Any

from penstock.tiny_model import make_model

MAX_TOKENS = 40
KINDS = ("grpo", "preference", "game", "agent")
ENDLESS = 100_000
"""Steps of a run that goes on until its faults are done, and is then asked to stop."""


def assets(folder: pathlib.Path) -> pathlib.Path:
    """A tiny model and rows of every form, made once."""
    if not (folder / "games.jsonl").is_file():
        make_model(folder / "model", hidden=32, layers=1, intermediate=64)
        wanted = {"least": 12, "most": 12, "slack": MAX_TOKENS}
        _write(folder / "rows.jsonl", [{"prompt": f"{i:x}", "length": wanted} for i in range(512)])
        _write(
            folder / "questions.jsonl", [{"question": f"what is {i} + {i}?", "answer": str(2 * i)} for i in range(64)]
        )
        _write(folder / "games.jsonl", [{"low": 0, "high": 3 + i % 8} for i in range(64)])
    return folder


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shape(rng: random.Random, of: pathlib.Path, fake: bool, kind: str = "") -> dict[str, Any]:
    """A recipe over the assets in `of`. fake: engines cost nothing, so there may be several. kind: one of KINDS, or any
    but an agent."""
    chosen = rng.choices(["grpo", "preference", "game"], [5, 2, 2])[0]
    kind = kind or chosen
    groups = rng.choice([1, 2, 4, 8, 16, 32, 64] if rng.random() < 0.93 else [256, 512])
    steps = rng.choice([ENDLESS, rng.randint(10, 60)])
    size = 2 if kind == "preference" or groups >= 256 else rng.choice([2, 4])
    recipe: dict[str, Any] = {
        "run": "r",
        "model": {"path": str(of / "model")},
        "data": {"train": str(of / "rows.jsonl"), "eval": str(of / "rows.jsonl")},
        "environment": {"name": "length"},
        "algorithm": {"name": "grpo", "steps": steps, "groups_per_step": groups, "group_size": size},
        "staleness": {"max_versions": rng.randint(0, 4)},
        "sampling": {"max_tokens": MAX_TOKENS},
        "evaluation": {"tasks": 2, "every": rng.choice([0, 20])},
        "learner": {
            "checkpoints": {"every": rng.choice([1, 3, 10])},
            "optimizer": {"learning_rate": 1.0e-5},
            "ranks": 2 if rng.random() < 0.2 else 1,
            "micro_batch_tokens": 4096,
        },
        "generation": {"max_running": 256, "max_context": 192, "replicas": rng.choice([1, 2, 3]) if fake else 1},
        "rollout": {"workers": rng.choice([1, 2])},
        "telemetry": {"tensorboard": False},
    }
    if kind == "preference":
        recipe["algorithm"] |= {"name": "dpo", "preference": {"source": "rollouts"}}
    if kind == "game":
        games = str(of / "games.jsonl")
        recipe["data"] = {"train": games, "eval": games}
        recipe["environment"] = {"name": "guess_number", "multi_turn": True, "max_turns": 3}
    if kind == "agent":
        questions = str(of / "questions.jsonl")
        recipe["data"] = {"train": questions, "eval": questions}
        recipe["environment"] = {"name": "calculator_agent", "agent": True, "max_turns": 2, "tool_calls": "hermes"}
        recipe["environment"]["workers"] = 4
        recipe["algorithm"]["groups_per_step"] = min(groups, 8)
        recipe["gateway"] = {"replicas": 2}
        recipe["generation"]["max_context"] = 512
    return recipe
