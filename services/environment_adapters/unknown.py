"""An ID or a setting that a library does not have, said in one sentence with the nearest that it has."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any


class Unknown(ValueError):
    """The recipe names what the library does not have; the text says what was nearest."""


def check_known(kind: str, name: str, known: Collection[str]) -> None:
    """Raises Unknown for a name that is none of the known ones."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    some = ", ".join(sorted(known)[:8])
    raise Unknown(f"no {kind} {name!r} here" + (f" (did you mean {near[0]}?)" if near else f"; here: {some or 'none'}"))


def check_settings(made_by: Callable[..., Any], settings: Mapping[str, Any], *others: str) -> None:
    """Raises Unknown for a setting that is no parameter of what is made with them. others: further names."""
    parameters = inspect.signature(made_by).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [*(p.name for p in parameters if p.name != "self"), *others]
    for name in settings:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        if name not in known:
            meant = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise Unknown(f"environment.settings: no {name!r} ({meant})")
