"""A run is resumed by the recipe it has, or by one that computes the same on other ranks."""

import json
import pathlib
from typing import Any

import pytest
import yaml

from penstock.cli.run_directory import RunRefused, held
from penstock.recipes import resolve


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> dict[str, Any]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    return {
        "run": "r",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 3},
    }


def test_the_layout_may_change(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with held(tmp_path / "runs", resolve(raw)) as folder:
        pass
    other = ["learner.ranks=4", "learner.parallel.tensor=2", "learner.parallel.pipeline=2", "learner.recompute=full"]
    with held(tmp_path / "runs", resolve(raw, other)) as again:
        assert again == folder
        assert "tensor: 2" in (folder / "recipe.yaml").read_text()


def test_drafted_tokens_may_change(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """The same distribution, sooner."""
    drafted = resolve(raw, ["generation.speculative={method: ngram}"])
    for recipe in (resolve(raw), drafted, resolve(raw)):
        with held(tmp_path / "runs", recipe) as folder:
            assert ("method: ngram" in (folder / "recipe.yaml").read_text()) == (recipe == drafted)


def test_what_is_computed_may_not(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with held(tmp_path / "runs", resolve(raw)):
        pass
    changed = resolve(raw, ["learner.ranks=2", "learner.optimizer.beta1=0.1"])
    with (
        pytest.raises(RunRefused, match=r"different: learner.optimizer.beta1\)"),
        held(tmp_path / "runs", changed),
    ):
        pass


def test_one_process_at_a_time(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with (
        held(tmp_path / "runs", resolve(raw)),
        pytest.raises(RunRefused, match="in use"),
        held(tmp_path / "runs", resolve(raw)),
    ):
        pass


def finish(folder: pathlib.Path, reason: str = "") -> None:
    """What the services of a run leave behind at its end."""
    (folder / "export").mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"steps": 3, "status": "done", "reason": reason}))


def test_a_finished_run_goes_on_for_more_steps_alone(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    runs, more = tmp_path / "runs", resolve(raw, ["algorithm.steps=5"])
    with held(runs, resolve(raw)) as folder:
        finish(folder)
    for same_or_less in ([], ["algorithm.steps=2"], ["learner.ranks=2"]):
        with (
            pytest.raises(RunRefused, match=r"holds a finished run; a larger algorithm\.steps goes on"),
            held(runs, resolve(raw, same_or_less)),
        ):
            pass
    with (
        pytest.raises(RunRefused, match=r"different: learner\.seed\)"),
        held(runs, resolve(raw, ["algorithm.steps=5", "learner.seed=1"])),
    ):
        pass
    with held(runs, more):
        assert "steps: 5" in (folder / "recipe.yaml").read_text()
    with held(runs, more):  # interrupted before it wrote anything: it is resumed like any other
        finish(folder)
    with pytest.raises(RunRefused, match="holds a finished run"), held(runs, more):
        pass


def test_a_run_that_reached_its_target_goes_on_to_another(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    runs = tmp_path / "runs"
    with held(runs, resolve(raw, ["evaluation.target_reward=0.5"])) as folder:
        finish(folder, "its target is reached")
    with held(runs, resolve(raw, ["evaluation.target_reward=0.9"])):
        assert json.loads((folder / "summary.json").read_text())["status"] == "starting"


def test_a_run_goes_on_with_other_workers_replicas_and_watchers(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    runs = tmp_path / "runs"
    with held(runs, resolve(raw)) as folder:
        pass
    changes = [
        "rollout.workers=3",
        "generation.replicas=2",
        "environment.workers=2",
        "limits.stall_seconds=30",
        "telemetry.tensorboard=false",
        "weight_sync.keep_versions=9",
    ]
    with held(runs, resolve(raw, changes)):
        assert "keep_versions: 9" in (folder / "recipe.yaml").read_text()
    with (
        pytest.raises(RunRefused, match=r"different: rollout\.groups_per_worker\)"),
        held(runs, resolve(raw, [*changes, "rollout.groups_per_worker=3"])),
    ):
        pass


def test_a_run_may_be_made_longer_on_its_way_and_not_shorter(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    runs = tmp_path / "runs"
    with held(runs, resolve(raw)), pytest.raises(RunRefused, match="in use"), held(runs, resolve(raw)):
        pass
    with (
        pytest.raises(RunRefused, match=r"different: algorithm\.steps\)"),
        held(runs, resolve(raw, ["algorithm.steps=2"])),
    ):
        pass
    with held(runs, resolve(raw, ["algorithm.steps=4"])):
        pass


def test_a_run_begun_before_keys_were_added_goes_on(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with held(tmp_path / "runs", resolve(raw)) as folder:
        pass
    old = yaml.safe_load((folder / "recipe.yaml").read_text())
    del old["packages"], old["learner"]["share_prefixes"], old["limits"]["outage_seconds"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(old))
    with held(tmp_path / "runs", resolve(raw)):
        pass
    (folder / "recipe.yaml").write_text(yaml.safe_dump(old))
    other = resolve(raw, ["learner.share_prefixes=false"])
    with pytest.raises(RunRefused, match=r"different: learner.share_prefixes\)"), held(tmp_path / "runs", other):
        pass


def test_the_log_may_get_more_room_and_not_less(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    for room in (2**30, 2**31):
        with held(tmp_path / "runs", resolve(raw, [f"limits.log_bytes={room}"])):
            pass
    less = resolve(raw, [f"limits.log_bytes={2**30}"])
    with pytest.raises(RunRefused, match="limits.log_bytes: .* 2147483648 bytes"), held(tmp_path / "runs", less):
        pass
