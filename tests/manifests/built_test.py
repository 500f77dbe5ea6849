"""kustomize makes of base, overlay and components just the objects that the recipe's manifests are."""

import dataclasses
import itertools
import pathlib
from typing import Any

import pytest
import yaml

from penstock.access import Login, subjects_of
from penstock.bus import RunNames, User
from penstock.kube import Place, components, manifests, overlay, written
from penstock.kube.patches import KEYS
from penstock.recipes import Recipe
from tests.manifests.building import built, no_kustomize
from tests.manifests.shapes import SHAPES, recipe

USERS: dict[str, User] = {kind: User(Login(kind, "secret"), each) for kind, each in subjects_of(RunNames("r")).items()}
PLACE = Place("mine", "registry.example/penstock", "v1", "/srv/files", "cuda")
Key = tuple[str, str]


def ordered(value: Any, key: str = "") -> Any:
    """With lists that Kubernetes merges in one order."""
    if isinstance(value, dict):
        return {name: ordered(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return (
            sorted(map(ordered, value), key=lambda each: each[KEYS[key]]) if key in KEYS else list(map(ordered, value))
        )
    return value


def keyed(objects: Any) -> dict[Key, Any]:
    return {(each["kind"], each["metadata"]["name"]): ordered(each) for each in objects}


def write(made: Recipe, folder: pathlib.Path, *switched: str) -> pathlib.Path:
    return written(folder, made.run, overlay(made, PLACE, "key", USERS, switched))


@pytest.mark.skipif(bool(no_kustomize()), reason=no_kustomize())
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_overlay_over_the_base_is_the_run(shape: str, whole: bool, tmp_path: pathlib.Path) -> None:
    """Without components, and with all of them."""
    made, place = recipe(SHAPES[shape]), dataclasses.replace(PLACE, tls=whole)
    beside = components(made, place) if whole else {}
    found = keyed(built(write(made, tmp_path, *beside)))
    wanted = keyed(itertools.chain(*manifests(made, place, "key", USERS).values(), *beside.values()))
    assert found.pop(("Namespace", "mine"))
    assert found.keys() == wanted.keys()
    for key, each in wanted.items():
        assert found[key] == each, key


@pytest.mark.parametrize("shape", SHAPES)
def test_what_an_overlay_names_is_there(shape: str, tmp_path: pathlib.Path) -> None:
    """Also where there is no kustomize to say so."""
    made = recipe(SHAPES[shape])
    there = write(made, tmp_path, *components(made, PLACE))
    listing = yaml.safe_load((there / "kustomization.yaml").read_text())
    for name in (*listing["resources"], *listing["components"]):
        folder = there / name
        assert folder.is_file() or (folder / "kustomization.yaml").is_file(), name
    base = keyed(each for path in (tmp_path / "base").glob("*.yaml") for each in _objects(path))
    patches = [yaml.safe_load((there / each["path"]).read_text()) for each in listing.get("patches", ())]
    assert {(each["kind"], each["metadata"]["name"]) for each in patches} <= set(base)
    assert {each["name"] for each in listing.get("replicas", ())} <= {name for _, name in base}
    secret = (there / "secrets.yaml").stat().st_mode & 0o777
    assert secret == 0o600 and not any(kind == "Secret" for kind, _ in base)


def _objects(path: pathlib.Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] != "Kustomization"]


def test_what_is_switched_off_again_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    there = write(recipe(SHAPES["many"]), tmp_path, "monitoring", "autoscaling")
    assert (there / "patches" / "learner-networkpolicy.yaml").is_file()
    write(recipe({}), tmp_path)
    listing = yaml.safe_load((there / "kustomization.yaml").read_text())
    assert "components" not in listing and not (there / "patches" / "learner-networkpolicy.yaml").is_file()


@pytest.mark.parametrize(
    ("shape", "name", "why"),
    [
        ("plain", "mesh", "--component: there is no 'mesh'; there are monitoring, tls, autoscaling"),
        ("demonstrations", "autoscaling", "--component: 'autoscaling' has nothing to scale in this run"),
    ],
)
def test_a_component_that_is_none_is_refused(shape: str, name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        overlay(recipe(SHAPES[shape]), PLACE, "key", USERS, [name])
