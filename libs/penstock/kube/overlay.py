"""A run's numbers as a kustomize overlay over a base that hangs on no recipe. Pure.

    base/            every service of a plain run, its policies, NATS: the same for everybody
    components/      what not every cluster has: the same for everybody
    overlays/RUN/    namespace, images, replicas, what else a recipe changes; the recipe and the secrets

An overlay is computed: it is what makes of the base the objects that `penstock.kube.manifests` has for the recipe
(`penstock.kube.patches`), so there is no second place that knows a recipe.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from penstock.access import Login, subjects_of
from penstock.bus import RunNames, User
from penstock.kube.components import components
from penstock.kube.containers import Place, environment_of
from penstock.kube.manifests import manifests
from penstock.kube.patches import difference
from penstock.recipes import Recipe
from penstock.supervisor.plan import instances, kind_of

Object = dict[str, Any]
Files = dict[str, list[Object]]
PLAIN = {"run": "r", "model": {"path": "/files/model"}, "data": {"train": "/files/train.jsonl"}}
PLAIN |= {"environment": {"name": "length"}, "algorithm": {"steps": 1}}
"""A recipe with what every one has."""
COUNTED = ("Deployment", "StatefulSet")


class Anywhere(Place):
    """A place that an overlay has still to name."""

    def image(self, kind: str) -> str:
        """What an overlay's `images` makes an image of."""
        return f"penstock-{environment_of(kind)}"


@dataclasses.dataclass(frozen=True)
class Overlay:
    """What a folder of one has, beside its kustomization. resources: whole objects, by file; patches: by file; own: by
    component, what this run changes of it."""

    kustomization: Object
    resources: Files
    patches: dict[str, Object]
    own: dict[str, dict[str, Object]]


def base() -> Files:
    """By file, what every run has: no recipe, and no secret."""
    users: dict[str, User] = {kind: User(Login(kind, "-"), each) for kind, each in subjects_of(RunNames("r")).items()}
    found = manifests(Recipe.model_validate(PLAIN), Anywhere(namespace=""), "-", users)
    left = {file: [each for each in objects if not _is_overlays(each)] for file, objects in found.items()}
    return {file: objects for file, objects in left.items() if objects}


def shared() -> Files:
    """By component, the objects of it, as they are for a run of the default namespace."""
    made = components(Recipe.model_validate(PLAIN), Place())
    return {name: [_unplaced(each) for each in objects] for name, objects in made.items()}


def overlay(
    recipe: Recipe, place: Place, page_key: str, users: Mapping[str, User], switched: Collection[str] = ()
) -> Overlay:
    """Of a recipe. switched: the components that it has.

    Raises ValueError for a component that there is not, or that has nothing to do in this run.
    """
    place = dataclasses.replace(place, tls="tls" in switched)
    nowhere = Anywhere("", place.images, place.tag, place.files, place.accelerator, place.tls)
    has = {_key(each): each for each in itertools.chain(*base().values())}
    resources: Files = {}
    patches: dict[str, Object] = {}
    for file, objects in manifests(recipe, nowhere, page_key, users).items():
        for each in objects:
            before = has.pop(_key(each), None)
            if before is None:
                name = "secrets.yaml" if each["kind"] == "Secret" else "recipe.yaml" if _is_overlays(each) else file
                resources.setdefault(name, []).append(each)
            elif changed := difference(before, each):
                patches[_file(each)] = {**_named(each), **changed}
    patches |= {_file(each): {**_named(each), "$patch": "delete"} for each in has.values()}
    counts = {each["metadata"]["name"]: each["spec"].pop("replicas") for each in patches.values() if _counts(each)}
    patches = {
        file: each for file, each in patches.items() if each.keys() - _named(each).keys() and each.get("spec", 1)
    }
    own = _own(recipe, place, switched)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace}}
    resources = {"namespace.yaml": [space], **resources}
    images = sorted({environment_of(kind_of(name)) for name in instances(recipe)} | {"light"})
    kustomization: Object = {
        "namespace": place.namespace,
        "resources": ["../../base", *resources],
        "components": [name if own.get(name) else f"../../components/{name}" for name in switched],
        "images": [
            {"name": f"penstock-{each}", "newName": f"{place.images}-{each}-{place.accelerator}", "newTag": place.tag}
            for each in images
        ],
        "replicas": [{"name": name, "count": count} for name, count in counts.items()],
        "patches": [{"path": file} for file in patches],
    }
    return Overlay({key: value for key, value in kustomization.items() if value}, resources, patches, own)


def _own(recipe: Recipe, place: Place, switched: Collection[str]) -> dict[str, dict[str, Object]]:
    """By component, a patch for each object of it that is another one in this run."""
    there, here = shared(), components(recipe, place)
    for name in switched:
        if name not in there:
            raise ValueError(f"--component: there is no {name!r}; there are {', '.join(there)}")
        if name not in here:
            raise ValueError(f"--component: {name!r} has nothing to scale in this run")
    found: dict[str, dict[str, Object]] = {}
    for name in switched:
        before = {_key(each): each for each in there[name]}
        for each in here[name]:
            if changed := difference(before[_key(each)], _unplaced(each)):
                found.setdefault(name, {})[f"{each['metadata']['name']}.yaml"] = {**_named(each), **changed}
    return found


def _unplaced(each: Object) -> Object:
    """Without the namespace that an overlay names."""
    return {**each, "metadata": {key: value for key, value in each["metadata"].items() if key != "namespace"}}


def _key(each: Object) -> tuple[str, str]:
    return each["kind"], each["metadata"]["name"]


def _named(each: Object) -> Object:
    """As a patch says what it changes."""
    return {"apiVersion": each["apiVersion"], "kind": each["kind"], "metadata": {"name": each["metadata"]["name"]}}


def _file(each: Object) -> str:
    """Where a patch of an object lies."""
    kind, name = _key(each)
    return f"patches/{name}.yaml" if "template" in each.get("spec", ()) else f"patches/{name}-{kind.lower()}.yaml"


def _counts(patch: Object) -> bool:
    return patch["kind"] in COUNTED and "replicas" in patch.get("spec", ())


def _is_overlays(each: Object) -> bool:
    """What there is no base of."""
    return each["kind"] == "Secret" or _key(each) == ("ConfigMap", "recipe")
