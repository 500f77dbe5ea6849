"""Rendered manifests are what Kubernetes' own schemas ask for: no unknown field, no field of a wrong kind."""

import itertools

import kubernetes_validate
import pytest

from penstock.access import Login, subjects_of
from penstock.bus import RunNames, User
from penstock.kube import Place, manifests
from tests.manifests.shapes import SHAPES, recipe

VERSIONS = ("1.28", "1.31", "1.34")
USERS: dict[str, User] = {kind: User(Login(kind, "secret"), each) for kind, each in subjects_of(RunNames("r")).items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_is_valid(shape: str, accelerator: str, version: str) -> None:
    files = manifests(recipe(SHAPES[shape]), Place(accelerator=accelerator), "key", USERS)
    kinds = set()
    for each in itertools.chain(*files.values()):
        kubernetes_validate.validate(each, version, strict=True)
        kinds.add(each["kind"])
    assert {"Deployment", "StatefulSet", "Job", "NetworkPolicy", "Secret", "PersistentVolumeClaim"} <= kinds


def test_a_wrong_object_is_found() -> None:
    (job,) = (e for e in manifests(recipe({}), Place(), "key", USERS)["learner.yaml"] if e["kind"] == "Job")
    job["spec"]["template"]["spec"]["containers"][0]["imagine"] = "light"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
