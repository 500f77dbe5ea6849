"""`reasoning_gym:<data set>`: a task is made of its number, asked, and scored by the data set's own scorer.

Settings are the data set's configuration, with `size` tasks (10 000), and `system_prompt`: the name of one of the
library's, or a text.

Not mapped: curricula (`environment.settings` are one level), composite data sets' weights that change, and what the
library's own servers keep of former answers.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from typing import Any, ClassVar

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import FinishReason, Message, Scored
from services.environment_adapters.tasks import HELD_OUT, is_held_out, number_of
from services.environment_adapters.unknown import Unknown, check_known, check_settings

WANT = {"zebra_puzzles": "pycosat"}
"""Data sets that want a package which our lock has not, for it has no wheel; the library imports it for all."""
ABSENT = [each for each in WANT.values() if importlib.util.find_spec(each) is None]
for _each in ABSENT:
    sys.modules[_each] = types.ModuleType(_each)
reasoning_gym = importlib.import_module("reasoning_gym")
DATASETS: Mapping[str, Any] = importlib.import_module("reasoning_gym.factory").DATASETS
utils = importlib.import_module("reasoning_gym.utils")
SIZE = 10_000


class Question(Environment):
    """One question of a data set, and the answer's score. `data`: makes the tasks that are trained on, or held out."""

    max_turns = 1
    data: ClassVar[Any]
    system: ClassVar[str | None] = None

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        tasks = type(self).data(is_held_out(row))
        self._tasks, self._task = tasks, tasks[number_of(row) % len(tasks)]
        asked = [Message("user", self._task["question"])]
        return asked if self.system is None else [Message("system", self.system), *asked]

    def step(self, action: Message, finish_reason: FinishReason) -> Turn:
        """What stands in answer tags is the answer; without any the whole text is, where it came to its end."""
        whole = action.content.strip() if finish_reason == "stop" else None
        said = utils.extract_answer(action.content)
        answer = whole if said is None else said
        score = self._tasks.score_answer(answer, self._task)
        return Turn((), True, Scored(float(score), {"answered": float(said is not None)}, answer))


def check(identity: str, settings: Mapping[str, Any]) -> None:
    """Raises Unknown."""
    check_known("data set of reasoning_gym", identity, DATASETS)
    if (wanted := WANT.get(identity)) in ABSENT:
        raise Unknown(f"{identity} wants the package {wanted}, which is not here; `penstock env add adapters {wanted}`")
    check_settings(DATASETS[identity][1], settings, "system_prompt")
    try:
        _made(identity, settings, False)
    except (AssertionError, TypeError, ValueError) as error:
        raise Unknown(f"environment.settings: {identity} refuses them: {error}") from error


def made(identity: str, settings: Mapping[str, Any]) -> type[Question]:
    """The environment of a data set. Raises Unknown."""
    check(identity, settings)
    system = settings.get("system_prompt")
    held = functools.cache(functools.partial(_made, identity, settings))
    members = {"data": staticmethod(held), "system": utils.SYSTEM_PROMPTS.get(str(system), system)}
    return type("Question", (Question,), {**members, "summary": f"reasoning_gym's {identity}."})


def _made(identity: str, settings: Mapping[str, Any], held_out: bool) -> Any:
    chosen = {"size": SIZE, **{key: value for key, value in settings.items() if key != "system_prompt"}}
    seed = int(chosen.pop("seed", 0)) + (HELD_OUT if held_out else 0)
    return reasoning_gym.create_dataset(identity, **chosen, seed=seed)
