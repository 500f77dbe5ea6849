"""What makes one object of another, as a strategic merge patch. Pure.

    base {replicas: 1, args: [a]}    wanted {replicas: 3, args: [a]}    patch {replicas: 3}

Invariant (test name): a base with its patch is what is wanted.
"""

from __future__ import annotations

from typing import Any

KEYS = {"containers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}
"""Lists whose entries Kubernetes merges by a key; any other is replaced."""


def difference(base: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What `base` lacks of `wanted`, and what it has too much, as null; empty where they are alike."""
    found: dict[str, Any] = {key: None for key in base if key not in wanted}
    for key, now in wanted.items():
        was = base.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            found[key] = difference(was, now)
        elif key in KEYS and isinstance(was, list):
            found |= {key: entries} if (entries := _entries(was, now, KEYS[key])) else {}
        else:
            found[key] = now
    return found


def _entries(was: list[dict[str, Any]], now: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Of lists that are merged by a key: their order says nothing."""
    before, after = ({each[key]: each for each in entries} for entries in (was, now))
    changed = [
        {key: name, **difference(before[name], each)} if name in before else each
        for name, each in after.items()
        if each != before.get(name)
    ]
    return [*changed, *({key: name, "$patch": "delete"} for name in before if name not in after)]
