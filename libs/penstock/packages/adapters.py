"""The catalogue of adapters: whose environments a recipe may name as `LIBRARY:ID`, and how they are played.

    environment: {name: "reasoning_gym:chain_sum", multi_turn: true}
    data: {train: "reasoning_gym:chain_sum", limit: 2000}

In a library, because whoever reads a recipe must know it where none of them is installed: they run in a service of
their own, `services/environment_adapters`, whose modules bear these names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """A library of environments. what: of an ID; agent: whether its rollout calls the policy itself; tasks: whether it
    has tasks by number, so that `data.train` and `data.eval` may name it instead of a file."""

    name: str
    what: str
    agent: bool = False
    tasks: bool = True

    @property
    def flag(self) -> str:
        """The key of a recipe that says how it is played."""
        return "agent" if self.agent else "multi_turn"


ADAPTERS: Mapping[str, Adapter] = {
    each.name: each
    for each in (
        Adapter("verifiers", "an environment package", agent=True),
        Adapter("reasoning_gym", "a data set"),
        Adapter("gymnasium", "an environment with text, or discrete actions"),
        Adapter("textarena", "a game for one player"),
        Adapter("openenv", "the URL of a server"),
        Adapter("nemo_gym", "the URL of a resources server", agent=True, tasks=False),
    )
}


def adapter_of(name: str) -> Adapter | None:
    """Whose environment a name is: of `LIBRARY:ID`; None for any other name."""
    library, colon, identity = name.partition(":")
    return ADAPTERS.get(library) if colon and identity else None


def identity_of(name: str) -> str:
    """The ID of `LIBRARY:ID`."""
    return name.partition(":")[2]


def misspelt(name: str) -> str | None:
    """What is wrong with a name that was meant for an adapter; None where it was not, or is one."""
    library, colon, identity = name.partition(":")
    if not colon or adapter_of(name) is not None:
        return None
    if library in ADAPTERS:
        return f"{name!r} names no {ADAPTERS[library].what.removeprefix('a ').removeprefix('an ')} behind the colon"
    near = difflib.get_close_matches(library, list(ADAPTERS), n=1)
    return f"no adapter {library!r} (did you mean {near[0] if near else ', '.join(ADAPTERS)}?)"
