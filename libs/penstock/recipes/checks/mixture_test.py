"""Sources that cannot be mixed are refused."""

import pathlib
from typing import Any

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems


def test_two_sources_cannot_mean_two_models_by_one_name(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = {"path": str(tmp_path / "model")}
    raw["environment"]["rewards"] = [{"name": "helpful", "model": model}]
    other = {"name": "b", "rewards": [{"name": "helpful", "model": {**model, "dtype": "bfloat16"}}]}
    raw["mixture"] = [{"name": "b", "data": raw["data"], "environment": other}]
    assert "mixture: the reward 'helpful' names two models; give each a name of its own" in problems(raw)
    other["rewards"] = [{"name": "helpful", "model": model}]
    assert set(resolve(raw).reward_models) == {"helpful"}
