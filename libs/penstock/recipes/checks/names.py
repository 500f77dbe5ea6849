"""Names of which only some are known."""

import difflib
from collections.abc import Collection


def unknown_name(key: str, value: str, known: Collection[str]) -> list[str]:
    """One sentence if `value` is not known, with the nearest name that is; empty otherwise."""
    if value in known:
        return []
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
    return [f"{key}: {value!r} is not one of {', '.join(known)}; did you mean {near[0]!r}?"]
