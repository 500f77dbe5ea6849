"""What a conversion is made of: a table of keys that stand alone, and topics, whose keys hang together.

A topic is a function of (given, made) that takes its keys and sets what they mean; the table does the same for one key
at a time; `unknown` names what nobody took.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MISSING = object()


class Given:
    """A configuration as dotted keys, and which of them have been taken. Invariant: each key is taken, or named by
    `untaken`."""

    def __init__(self, flat: Mapping[str, Any]) -> None:
        self._flat = dict(flat)
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._flat.get(key) is not None

    def take(self, key: str, default: Any = None) -> Any:
        """The key's value; the default where it is absent or null."""
        self._taken.add(key)
        value = self._flat.get(key)
        return default if value is None else value

    def take_first(self, *keys: str, default: Any = None) -> Any:
        """The value of the first of several names that one thing has had; all are taken."""
        found = [value for key in keys if (value := self.take(key)) is not None]
        return found[0] if found else default

    def take_below(self, prefix: str) -> dict[str, Any]:
        """All keys below a section that are not taken yet, by what follows its name."""
        below = {key: self._flat[key] for key in self.untaken() if key.startswith(prefix + ".")}
        self._taken.update(below)
        return {key.removeprefix(prefix + "."): value for key, value in below.items()}

    def take_list(self, key: str) -> list[Any]:
        """A list, or one value as a list of one."""
        value = self.take(key, [])
        return value if isinstance(value, list) else [value]

    def untaken(self) -> list[str]:
        """In the order of the file."""
        return [key for key in self._flat if key not in self._taken]


@dataclass
class Made:
    """The recipe so far, and what is said about keys."""

    recipe: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def set(self, path: str, value: Any) -> None:
        """Writes a key of the recipe (`algorithm.loss.cap`); None writes nothing."""
        if value is None:
            return
        *sections, name = path.split(".")
        at = self.recipe
        for section in sections:
            at = at.setdefault(section, {})
        at[name] = value

    def get(self, path: str) -> Any:
        """What a key of the recipe has been set to; None if it has not."""
        at: Any = self.recipe
        for name in path.split("."):
            at = at.get(name) if isinstance(at, dict) else None
        return at

    def left(self, key: str, why: str) -> None:
        """One line about a key that was not carried over, or not wholly."""
        self.said.append(f"{key}: {why}")


@dataclass(frozen=True)
class Converted:
    """recipe: as a mapping, without what could not be known. said: a line for each key that was not carried over, or
    not wholly, and for each that the recipe needs and the configuration does not have."""

    recipe: dict[str, Any]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What becomes of one key.

    to: where it is in a recipe; nowhere if empty. by: what its value is there. why: the line where it is nowhere.
    means_nothing: values by which nothing is lost, so nothing is said.
    """

    to: str = ""
    by: Callable[[Any], Any] = lambda value: value
    why: str = ""
    means_nothing: tuple[Any, ...] = (False, None)


def to(path: str, by: Callable[[Any], Any] = lambda value: value) -> Row:
    """A key with a counterpart."""
    return Row(path, by)


def nowhere(why: str, *means_nothing: Any) -> Row:
    """A key without one. means_nothing: further values by which nothing is lost."""
    return Row(why=why, means_nothing=(False, None, *means_nothing))


def whole(value: Any) -> Any:
    """A number of tokens or steps: 2e4 is one too."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def real(value: Any) -> Any:
    """A real number: YAML's 1e-6 is a word to some readers."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def carry(given: Given, made: Made, table: Mapping[str, Row]) -> None:
    """Carries the table's keys. A name that ends with `.*` means every key below it that nobody took before; one of
    these that is nearly another key of the table is taken for a slip."""
    for key, row in table.items():
        if key.endswith(".*"):
            below = key.removesuffix("*")
            for name, value in given.take_below(key.removesuffix(".*")).items():
                near = _near(below + name, [k for k in table if not k.endswith("*")])
                _carry(below + name, value, nowhere(f"unknown key; did you mean {near}?") if near else row, made)
        elif key in given:
            _carry(key, given.take(key), row, made)
        else:
            given.take(key)


def _carry(key: str, value: Any, row: Row, made: Made) -> None:
    if row.to:
        made.set(row.to, row.by(value))
    elif not any(
        value is nothing or (value == nothing and type(value) is type(nothing)) for nothing in row.means_nothing
    ):
        made.left(key, row.why)


def _near(key: str, names: list[str]) -> str:
    return next(iter(difflib.get_close_matches(key, names, n=1, cutoff=0.9)), "")


def unknown(given: Given, made: Made, known: Iterable[str]) -> None:
    """Names the keys that nobody took."""
    names = [name for name in known if not name.endswith("*")]
    for key in given.untaken():
        near = _near(key, names)
        made.left(key, f"unknown key; did you mean {near}?" if near else "unknown key; not carried over")
