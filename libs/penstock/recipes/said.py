"""What a recipe says, as against what it means where it says nothing: keys whose values would be others without it."""

import copy
from collections.abc import Iterator
from typing import Any

from penstock.recipes.recipe import Recipe
from penstock.recipes.sections.base import Section


def said(recipe: Recipe, path: str) -> Iterator[tuple[str, Any]]:
    """The keys of a section (`algorithm.loss`) that the recipe says, with their values."""
    section: Any = recipe
    for name in path.split("."):
        section = getattr(section, name)
    if section is not None:
        yield from ((f"{path}.{key}", value) for key, value in said_of(section))


def as_said(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a mapping without what its choices filled in: another choice brings its own defaults."""
    raw = copy.deepcopy(recipe.model_dump(mode="json"))
    for section, at in (
        (recipe.algorithm.loss, raw["algorithm"]["loss"]),
        (recipe.algorithm.preference, raw["algorithm"]["preference"]),
    ):
        kept = {key.partition(".")[0] for key, _ in said_of(section)}
        for name in list(at):
            if name not in kept:
                del at[name]
    return raw


def said_of(section: Section) -> Iterator[tuple[str, Any]]:
    """The keys of one section, and of those in it (`kl.place`), likewise."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from ((f"{name}.{key}", inner) for key, inner in said_of(value))
        elif value != _unsaid(section, name):
            yield name, value


def _unsaid(section: Section, name: str) -> Any:
    """What the key would be: its default, or that of the choices made before it."""
    if not section.choosers:
        return type(section).model_fields[name].get_default(call_default_factory=True)
    made = section.choosers[: section.choosers.index(name)] if name in section.choosers else section.choosers
    return getattr(type(section)(**{key: getattr(section, key) for key in made}), name)
