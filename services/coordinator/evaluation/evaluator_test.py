"""An evaluation says what the log holds when it ends, whatever of it has been followed."""

import pathlib

import pytest

from penstock.bus import Bus, RunNames
from services.coordinator.admission import deadlines
from services.coordinator.admission.tasks import TaskMaker
from services.coordinator.evaluation.evaluator import Evaluator
from services.coordinator.state.following import Following
from services.coordinator.state.peers import Peers
from services.coordinator.testing.run import fold, make_recipe, play_worker, running


async def test_what_ended_in_time_is_measured_though_the_log_was_not_followed_up_to_it(
    bus: Bus, names: RunNames, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "GRACE_SECONDS", 1.0)
    make_recipe(tmp_path)
    recipe = make_recipe(tmp_path, data__eval=str(tmp_path / "eval.jsonl"), limits__group_deadline_seconds=1)
    following = Following(bus, names)
    evaluator = Evaluator(recipe, following, TaskMaker(recipe), Peers({}, {}), [0])
    async with running(following.follow_ledger(lambda: None), play_worker(bus, names, "eval")):
        await evaluator.run(lambda: False)
    evaluation = (await fold(bus, names)).evaluations[0]
    wanted = recipe.evaluation.tasks * recipe.evaluation.samples_per_task
    assert (evaluation.samples, evaluator.given_up) == (wanted, set())
