"""What processes export to Prometheus, read from the sources that make it: names, labels and meanings stand there once.

For the page of metrics, and for tests of rules and dashboards; no process needs it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

from penstock.telemetry import metrics

MADE = re.compile(
    r"metrics\.(counter|gauge|histogram)\(\s*metrics\.([A-Z_]+),\s*\"([^\"]*)\"(?:,\s*\[([^\]]*)\])?", re.S
)
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
"""Of a name, as Prometheus has it."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """One metric. name: with dots; made_by: the services' folders or libraries whose processes have it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    made_by: tuple[str, ...]

    @property
    def flat(self) -> tuple[str, ...]:
        """Its names in Prometheus."""
        return tuple(self.name.replace(".", "_") + suffix for suffix in SUFFIXES[self.kind])


def exported(root: pathlib.Path) -> list[Exported]:
    """All of them by name, read below `root`, the checkout's."""
    found = dict[str, Exported]()
    for path in sorted(each for folder in ("services", "libs/penstock") for each in (root / folder).rglob("*.py")):
        place = path.relative_to(root).parts[1 if path.is_relative_to(root / "services") else 2]
        for kind, constant, meaning, labels in MADE.findall(path.read_text()):
            name = getattr(metrics, constant)
            one = Exported(name, kind, tuple(re.findall(r"\"(\w+)\"", labels)), meaning.rstrip("."), (place,))
            before = found.setdefault(name, one)
            found[name] = dataclasses.replace(before, made_by=tuple(dict.fromkeys((*before.made_by, place))))
    return [found[name] for name in sorted(found)]
