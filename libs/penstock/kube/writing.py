"""A run's manifests as folders for `kubectl apply -k`: base and components for everybody, an overlay for the run."""

import pathlib
from collections.abc import Mapping
from typing import Any

from penstock.kube.manifests import shown
from penstock.kube.overlay import Object, Overlay, base, shared
from penstock.system.secret_files import write_secret

SECRETS = "secrets.yaml"


def written(folder: pathlib.Path, name: str, made: Overlay) -> pathlib.Path:
    """Writes base, components and the overlay `name`, its secrets for nobody else to read; the overlay's folder.

    What is there is written again, and patches that are no more are removed. Raises OSError.
    """
    _listed(folder / "base", base())
    for component, objects in shared().items():
        _listed(folder / "components" / component, {f"{component}.yaml": objects}, kind="Component")
    there = folder / "overlays" / name
    for path in (there / "patches").glob("*.yaml"):
        path.unlink()
    _listed(there, made.resources, listing=made.kustomization)
    for file, patch in made.patches.items():
        _write(there / file, [patch])
    for component, patches in made.own.items():
        listing = {
            "components": [f"../../../components/{component}"],
            "patches": [{"path": file} for file in patches],
        }
        _listed(there / component, {}, kind="Component", listing=listing)
        for file, patch in patches.items():
            _write(there / component / file, [patch])
    return there


def _listed(
    folder: pathlib.Path,
    files: Mapping[str, list[Object]],
    kind: str = "Kustomization",
    listing: Mapping[str, Any] | None = None,
) -> None:
    """Files with objects, and the kustomization that names them, or what is given."""
    for name, objects in files.items():
        _write(folder / name, objects)
    version = "v1beta1" if kind == "Kustomization" else "v1alpha1"
    said = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, **(listing or {"resources": [*files]})}
    _write(folder / "kustomization.yaml", [said])


def _write(path: pathlib.Path, objects: list[Object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == SECRETS:
        write_secret(path, shown(objects))
    else:
        path.write_text(shown(objects))
