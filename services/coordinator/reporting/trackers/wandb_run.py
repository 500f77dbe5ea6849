"""A Weights & Biases run: numbers over `train/step`, the recipe as config, samples of evaluations as tables.

An evaluation may be told after newer steps; W&B's own step never goes back, so the axis is a number of ours.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from services.coordinator.reporting.trackers.tracker import FAILED, About, Text

AXIS = "train/step"
_LONGEST_TAG = 64


class Wandb:
    """The run whose id is the run's own; a resumed run goes on in it."""

    def __init__(self, project: str, about: About) -> None:
        wandb = importlib.import_module("wandb")  # typed or not, by who looks at it

        self._table: Any = wandb.Table
        tags = [tag[:_LONGEST_TAG] for tag in about.tags]
        self._run: Any = wandb.init(project=project, name=about.name, id=about.id, resume="allow", tags=tags)
        self._run.config.update({**about.recipe, "links": dict(about.links)}, allow_val_change=True)
        self._run.define_metric("*", step_metric=AXIS)

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({AXIS: step, **numbers})

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        rows = [[getattr(text, name) for name in Text.columns()] for text in texts]
        shown = {"eval/sample_texts": self._table(columns=Text.columns(), data=rows)} if rows else {}
        self._run.log({AXIS: step, **numbers, **shown})

    def end(self, state: str) -> None:
        """W&B knows finished and failed; the word itself is in the run's summary."""
        self._run.summary["state"] = state
        self._run.finish(exit_code=1 if state == FAILED else 0)
