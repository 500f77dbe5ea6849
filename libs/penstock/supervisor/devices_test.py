"""Which GPUs each process of a host has."""

import pathlib
import random
from typing import Any

import pytest

from penstock.recipes import Recipe
from penstock.supervisor.devices import VISIBLE, Devices, visible
from penstock.supervisor.plan import instances


def recipe(**settings: Any) -> Recipe:
    base = {
        "run": "r",
        "model": {"path": "m"},
        "data": {"train": "t"},
        "environment": {"name": "length"},
        "algorithm": {"steps": 1},
    }
    return Recipe.model_validate({**base, **settings})


def all_of(made: Recipe, devices: Devices) -> dict[str, str]:
    names = [name for name in instances(made) if name.partition("-")[0] in ("learner", "generation", "rollout")]
    found = {name: devices.variables(made, name, names) for name in names}
    return {name: said[VISIBLE] for name, said in found.items() if said}


def test_no_two_processes_have_one_device_where_there_are_enough() -> None:
    made = recipe(learner={"ranks": 2}, generation={"replicas": 2})
    assert all_of(made, Devices(["0", "1", "2", "3"])) == {"generation-0": "0", "generation-1": "1", "learner": "2,3"}
    assert all_of(made, Devices([])) == {}, "a host without any"


def test_what_the_recipe_names_counts_and_too_few_are_shared() -> None:
    named = recipe(learner={"ranks": 2, "devices": (0, 1)}, generation={"replicas": 3, "devices": (3, 2)})
    found = all_of(named, Devices(["a", "b", "c", "d", "e"]))
    assert found == {"generation-0": "d", "generation-1": "c", "generation-2": "e", "learner": "a,b"}
    assert all_of(recipe(), Devices(["7"])) == {"generation-0": "7", "learner": "7"}


def test_an_index_that_the_host_has_not_is_refused_and_too_few_are_not() -> None:
    """What computes on CPUs needs none of them; a learner's rank that finds no GPU of its own says so itself."""
    with pytest.raises(ValueError, match="generation.devices names 2, and this host has 2 GPUs"):
        all_of(recipe(generation={"devices": (2,)}), Devices(["0", "1"]))
    assert all_of(recipe(learner={"ranks": 4}), Devices(["0", "1"]))["learner"] == "0,1"


def test_what_one_that_has_ended_had_is_free_again() -> None:
    rng, made, devices = random.Random(5), recipe(), Devices([str(i) for i in range(6)])
    held = dict[str, str]()
    for number in range(200):
        if held and (len(held) == 6 or rng.random() < 0.5):
            del held[rng.choice(list(held))]
        else:
            name = f"generation-{number}"
            held[name] = devices.variables(made, name, held)[VISIBLE]
        assert len(set(held.values())) == len(held) and all("," not in each for each in held.values())


def test_devices_are_those_of_the_environment_else_of_the_driver(tmp_path: pathlib.Path) -> None:
    assert visible({VISIBLE: "3, GPU-abc"}) == ["3", "GPU-abc"] and visible({VISIBLE: ""}) == []
    assert visible({VISIBLE: "-1"}) == [] and visible({VISIBLE: "1,-1,2"}) == ["1"], "as CUDA reads it"
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert visible({}, tmp_path) == ["0", "1"] and visible({}, tmp_path / "none") == []
