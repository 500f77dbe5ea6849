"""One rank's state at one moment: what a policy gives and a checkpoint keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Snapshot:
    """One rank's state at one moment.

    Attributes:
      shards: file name -> picklable state, the files that this rank writes.
      model: what a checkpoint must agree in to be loaded at all. layout: what it must agree in to be loaded exactly.
    """

    shards: Mapping[str, Any]
    model: Mapping[str, Any]
    layout: Mapping[str, Any]

    def beside(self, name: str, other: "Snapshot") -> "Snapshot":
        """With another model of the same layout in the same checkpoint; its files have names of their own."""
        return Snapshot({**self.shards, **other.shards}, {**self.model, name: other.model}, self.layout)
