"""What every object of a run has: a name, and labels by which it is selected. Pure."""

from __future__ import annotations

from typing import Any

from penstock.kube.containers import Place, object_name


def labels(kind: str) -> dict[str, str]:
    """Of everything of a kind."""
    return {"app.kubernetes.io/part-of": "penstock", "app.kubernetes.io/name": object_name(kind)}


def object_of(api: str, what: str, kind: str, **more: Any) -> dict[str, Any]:
    """An object of a kind."""
    return {
        "apiVersion": api,
        "kind": what,
        "metadata": {"name": object_name(kind), "labels": labels(kind)},
        **more,
    }


def placed(each: dict[str, Any], place: Place) -> dict[str, Any]:
    """An object in its namespace; in none where an overlay names it."""
    if not place.namespace:
        return each
    return {**each, "metadata": {**each["metadata"], "namespace": place.namespace}}
