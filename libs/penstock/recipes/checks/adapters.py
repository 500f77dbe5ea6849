"""What a recipe says of another library's environment that could not be meant. Whether the library has it, only the
library knows: `penstock.cli.adapters`."""

from collections.abc import Iterator

from penstock.packages.adapters import adapter_of
from penstock.recipes.recipe import Recipe


def check_adapters(recipe: Recipe) -> list[str]:
    """How such an environment is played, and rows that are made of its name."""
    return [*_playing(recipe), *_rows(recipe)]


def _playing(recipe: Recipe) -> Iterator[str]:
    environment = recipe.environment
    if environment is None:
        return
    adapter = environment.adapter
    if adapter is None:
        if environment.settings:
            yield "environment.settings: are for environments of other libraries, named LIBRARY:ID; leave them out"
        return
    if not getattr(environment, adapter.flag):
        yield f"environment.{adapter.flag}: {environment.name!r} is played so; set it to true"
    others = [e for e in recipe.environments if e.name == environment.name and e.settings != environment.settings]
    if others:
        yield f"environment.settings: {environment.name!r} has others elsewhere in the recipe; a run has it once"


def _rows(recipe: Recipe) -> Iterator[str]:
    for key, name in (("data.train", recipe.data.train), ("data.eval", recipe.data.eval)):
        adapter = adapter_of(name) if name is not None else None
        if adapter is None:
            continue
        if not adapter.tasks:
            yield f"{key}: {adapter.name} has no tasks by number; name a file with its rows"
        elif recipe.environment is None or recipe.environment.name != name:
            own = None if recipe.environment is None else recipe.environment.name
            yield f"{key}: {name!r} makes tasks of its own environment alone, and environment.name is {own!r}"
