"""On which keys two resolved recipes differ. Pure."""

from collections.abc import Iterator
from typing import Any


def differing(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, value of a, value of b) of each key that differs, as plain values are read from YAML."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from differing(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield path, a, b
