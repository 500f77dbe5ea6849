"""A run's manifests as files of a folder, with the kustomization that lists them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from penstock.kube.manifests import shown
from penstock.system.secret_files import write_secret


def written(files: Mapping[str, list[dict[str, Any]]], folder: pathlib.Path, namespace: str) -> list[pathlib.Path]:
    """Writes them, those with a Secret for nobody else to read. Raises OSError."""
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
    listed = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["namespace.yaml", *files],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(listed, sort_keys=False))
    return [folder / "kustomization.yaml", folder / "namespace.yaml", *found]
