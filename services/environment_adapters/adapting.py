"""From a name in a recipe to what a worker process runs: each library's module has `check` and `made`.

A worker imports the library that it serves, and no other: a target names the module and what it is called with.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.packages.adapters import ADAPTERS, Adapter, adapter_of, identity_of
from services.environment_adapters.unknown import Unknown


@dataclass(frozen=True)
class Served:
    """An environment that the service serves, under the recipe's name. measured: whether tasks that it makes by itself
    are measured with."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    measured: bool = False

    @classmethod
    def parsed(cls, text: str) -> Served:
        """Of `{"name": "LIBRARY:ID", "settings": {...}}`. Raises ValueError."""
        given = json.loads(text)
        if not isinstance(given, dict) or not isinstance(given.get("name"), str) or adapter_of(given["name"]) is None:
            known = ", ".join(ADAPTERS)
            raise ValueError(f"--serve: {text!r:.200} names none; it must have name, LIBRARY:ID of {known}")
        settings = given.get("settings", {})
        if not isinstance(settings, dict):
            raise ValueError(f"--serve: settings of {given['name']!r} must be an object, not {settings!r:.80}")
        return cls(given["name"], settings, given.get("measured") is True)

    @property
    def adapter(self) -> Adapter:
        """Whose it is."""
        found = adapter_of(self.name)
        assert found is not None, "it was checked where it was parsed"
        return found

    @property
    def target(self) -> str:
        """What a worker process resolves."""
        arguments = {"identity": identity_of(self.name), "settings": dict(self.settings)}
        return f"services.environment_adapters.{self.adapter.name}:made({json.dumps(arguments)})"


def problem(served: Served) -> str | None:
    """Why an environment cannot be had here, in one sentence; None where it can, as far as its library alone says."""
    try:
        module = importlib.import_module(f"services.environment_adapters.{served.adapter.name}")
        module.check(identity_of(served.name), served.settings)
        if served.measured and (measurable := getattr(module, "check_measured", None)) is not None:
            measurable(identity_of(served.name), served.settings)
    except Unknown as error:
        return str(error)
    except ImportError as error:
        return f"{served.name} cannot be imported where adapters run: {error}"
    return None
