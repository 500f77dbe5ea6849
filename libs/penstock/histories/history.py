"""What a run's files say of it, under way or over: its recipe, its steps, its summary. Nobody is asked."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

MANY = 8
"""Runs of one plot or one comparison: more could not be told apart."""


@dataclasses.dataclass(frozen=True)
class History:
    """steps: the rows of metrics.jsonl, in order; summary: empty where there is none yet."""

    name: str
    recipe: Mapping[str, Any]
    steps: Sequence[Mapping[str, float]]
    summary: Mapping[str, Any]

    @staticmethod
    def of(folder: pathlib.Path) -> "History":
        """Of a run's directory. Raises OSError, yaml.YAMLError where its recipe cannot be read."""
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        return History(folder.name, recipe, list(_rows(folder / "metrics.jsonl")), summary_of(folder))

    def curve(self, metric: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric, where a step has it."""
        found = [(row["step"], row[metric]) for row in self.steps if isinstance(row.get(metric), int | float)]
        return [step for step, _ in found], [value for _, value in found]

    @property
    def metrics(self) -> list[str]:
        """All that any step has."""
        return sorted({name for row in self.steps for name in row} - {"step", "time"})

    @property
    def final(self) -> dict[str, float | None]:
        """The numbers that runs are compared by: the last step's, and the last evaluation's."""
        last, evaluations = self.steps[-1] if self.steps else {}, self.summary.get("eval") or [{}]
        numbers: dict[str, float | None] = {"steps": float(len(self.steps))}
        numbers |= {name: last.get(name) for name in ("rl.reward.mean", "rl.loss", "rl.policy.entropy")}
        numbers |= {f"eval.{name}": evaluations[-1].get(name) for name in ("reward", "pass@1", "loss")}
        return {name: value for name, value in numbers.items() if value is not None} | {
            "seconds": self.summary.get("wall_seconds")
        }


def different(histories: Sequence[History]) -> dict[str, list[Any]]:
    """Keys of the recipes on which the runs differ, with each one's value; the run's name is none of them."""
    flat = [dict(_leaves(history.recipe)) for history in histories]
    keys = sorted({key for each in flat for key in each} - {"run"})
    rows = {key: [each.get(key) for each in flat] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def finals(histories: Sequence[History]) -> dict[str, list[float | None]]:
    """The numbers that the runs came to, by name, with each one's value."""
    found = [history.final for history in histories]
    return {name: [final.get(name) for final in found] for name in dict.fromkeys(n for f in found for n in f)}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _rows(path: pathlib.Path) -> Iterator[dict[str, float]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a run under way may be half written
        if isinstance(row, dict) and "step" in row:
            yield row


def summary_of(folder: pathlib.Path) -> dict[str, Any]:
    """What a run's summary.json says; nothing where there is none that can be read."""
    try:
        told = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
