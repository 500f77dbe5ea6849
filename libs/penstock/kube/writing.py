"""A run's manifests as files of a folder, with the kustomization that lists them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from penstock.kube.manifests import shown
from penstock.system.secret_files import write_secret


def written(
    files: Mapping[str, list[dict[str, Any]]],
    folder: pathlib.Path,
    namespace: str,
    components: Mapping[str, list[dict[str, Any]]],
) -> list[pathlib.Path]:
    """Writes them, those with a Secret for nobody else to read. components: are there for who names them in the
    kustomization. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, objects in files.items():
        path = folder / name
        if any(each["kind"] == "Secret" for each in objects):
            write_secret(path, shown(objects))
        else:
            path.write_text(shown(objects))
        found.append(path)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    (folder / "namespace.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    _list(folder, "v1beta1", "Kustomization", ["namespace.yaml", *files])
    for name, objects in components.items():
        beside = folder / "components" / name
        beside.mkdir(parents=True, exist_ok=True)
        (beside / f"{name}.yaml").write_text(shown(objects))
        _list(beside, "v1alpha1", "Component", [f"{name}.yaml"])
    if components:
        with (folder / "kustomization.yaml").open("a") as kustomization:
            kustomization.write("# Where the cluster has Prometheus' operator, or KEDA:\n# components:\n")
            kustomization.writelines(f"# - components/{name}\n" for name in components)
    return [folder / "kustomization.yaml", folder / "namespace.yaml", *found]


def _list(folder: pathlib.Path, version: str, kind: str, files: list[str]) -> None:
    listed = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, "resources": files}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(listed, sort_keys=False))
