"""Names of which only some are known."""

import difflib


def unknown_name(key: str, value: str, known: tuple[str, ...]) -> list[str]:
    if value in known:
        return []
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
    return [f"{key}: {value!r} is not one of {', '.join(known)}; did you mean {near[0]!r}?"]
