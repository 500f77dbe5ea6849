"""What lies in deploy/kubernetes is what `penstock kube` makes of these recipes today, and kustomize builds it."""

import pathlib
import shutil

import pytest

from tests.manifests.building import built, no_kustomize
from tests.manifests.examples import EXAMPLES, write

HERE = pathlib.Path("deploy/kubernetes")


def files(folder: pathlib.Path) -> dict[str, str]:
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")}
    return {name: text for name, text in found.items() if not name.endswith("secrets.yaml")}


def test_the_folder_is_what_is_rendered(tmp_path: pathlib.Path) -> None:
    """Else: `python -m tests.manifests.examples deploy/kubernetes`."""
    write(tmp_path)
    assert files(HERE) == files(tmp_path)
    assert {path.name for path in (HERE / "overlays").iterdir()} == set(EXAMPLES)


@pytest.mark.skipif(bool(no_kustomize()), reason=no_kustomize())
@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_built_once_its_secrets_are_there(name: str, tmp_path: pathlib.Path) -> None:
    shutil.copytree(HERE, tmp_path / "k")
    there = tmp_path / "k" / "overlays" / name
    (there / "secrets.yaml").write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: page}\n")
    objects = {(each["kind"], each["metadata"]["name"]): each for each in built(there)}
    learner = objects["Job", "learner"]["spec"]
    (container,) = learner["template"]["spec"]["containers"]
    gpus = container["resources"].get("limits", {}).get("nvidia.com/gpu")
    assert (gpus, learner.get("completions")) == {
        "demo-cpu": (None, None),
        "gpu-one-node": (4, None),
        "gpu-many-nodes": (8, 2),
    }[name]
    assert objects["StatefulSet", "nats"]["spec"]["replicas"] == (3 if name == "gpu-many-nodes" else 1)
    assert (("ScaledObject", "generation") in objects) == (name == "gpu-many-nodes")
