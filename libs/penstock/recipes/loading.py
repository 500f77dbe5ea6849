"""Reads a recipe file and overrides into a Recipe, or says exactly what is wrong: path, value, nearest valid name.

Nothing is started before this has passed.
"""

import copy
import difflib
import pathlib
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic
import yaml

from penstock.recipes import fitting
from penstock.recipes.checks import check_recipe
from penstock.recipes.hints import meant
from penstock.recipes.hub import HubError, fetched
from penstock.recipes.recipe import Recipe
from penstock.recipes.routing import decided


class _Loader(yaml.SafeLoader):
    """YAML with numbers as YAML 1.2 and everybody else write them: PyYAML takes 2e-4 for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


class RecipeError(ValueError):
    """The recipe cannot be run. `problems` has one sentence per fault, each naming the key's path."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__(f"{source}:\n" + "\n".join(f"  {p}" for p in problems))
        self.problems = list(problems)


def load(path: str | pathlib.Path, overrides: Iterable[str] = (), *, rows: bool = True) -> Recipe:
    """The recipe in a YAML file with `key=value` overrides on top. Raises RecipeError.

    `base: other.yaml` (beside the file) begins with another recipe: mappings are merged key by key, everything else is
    replaced. rows: whether the files of data.* must be here; a service that reads none of them needs none.
    """
    return resolve(_read(pathlib.Path(path), ()), overrides, source=str(path), rows=rows)


def recorded(path: pathlib.Path) -> Recipe:
    """A run's resolved recipe as it was: what it names need not be there any more. Raises RecipeError."""
    raw = _read(path, ())
    try:
        return Recipe.model_validate(_tuples(raw))
    except pydantic.ValidationError as error:
        raise RecipeError(str(path), [_sentence(raw, e) for e in error.errors()]) from error


def _read(file: pathlib.Path, above: tuple[pathlib.Path, ...]) -> dict[str, Any]:
    """The mapping in a file, on top of those it begins with. `above`: the files that led here."""
    try:
        raw = parse(file.read_text())
    except OSError as error:
        raise RecipeError(str(file), [f"cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(str(file), [f"is not YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise RecipeError(str(file), ["must be a mapping of sections"])
    if "base" not in raw:
        return raw
    base, above = raw.pop("base"), (*above, file.resolve())
    if not isinstance(base, str):
        raise RecipeError(str(file), [f"base: must be the name of a recipe file (got {base!r})"])
    other = file.parent / base
    if other.resolve() in above:
        raise RecipeError(str(file), [f"base: {base!r} leads back to itself"])
    if not other.is_file():
        near = difflib.get_close_matches(other.name, [p.name for p in other.parent.glob("*.yaml")], n=1, cutoff=0.0)
        raise RecipeError(
            str(file), [f"base: no file {str(other)!r}" + (f"; did you mean {near[0]!r}?" if near else "")]
        )
    return _merged(_read(other, above), raw)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merged(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def resolve(raw: dict[str, Any], overrides: Iterable[str] = (), *, source: str = "recipe", rows: bool = True) -> Recipe:
    """The recipe of a mapping with overrides; names of a hub are fetched (see `hub`). `rows` as of `load`.

    Raises RecipeError.
    """
    raw = copy.deepcopy(raw)
    for override in overrides:
        _apply(raw, override, source)
    try:
        raw = fetched(raw)
    except HubError as error:
        raise RecipeError(source, [str(error)]) from error
    fits = fitting.asks(raw)
    if fits:
        raw = fitting.without(raw)
    try:
        recipe = Recipe.model_validate(_tuples(raw))
    except pydantic.ValidationError as error:
        raise RecipeError(source, [_sentence(raw, e) for e in error.errors()]) from error
    if fits:
        recipe = fitting.fitted(recipe)
    recipe = decided(recipe)
    problems = check_recipe(recipe, rows=rows)
    if problems:
        raise RecipeError(source, problems)
    return recipe


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default spelled out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _apply(raw: dict[str, Any], override: str, source: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(source, [f"override {override!r} must have the form key.path=value"])
    at: Any = raw
    *parents, leaf = key.split(".")
    for name in parents:
        if not isinstance(at, dict) or (name in at and not isinstance(at[name], dict)):
            raise RecipeError(source, [f"override {key}: {name} is not a section"])
        at = at.setdefault(name, {})
    try:
        at[leaf] = parse(text)
    except yaml.YAMLError as error:
        raise RecipeError(source, [f"override {key}: {text!r} is not a YAML value ({error})"]) from error


def _tuples(value: Any) -> Any:
    """YAML lists as tuples and whole numbers where floats are wanted: strict mode takes neither by itself."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _section(path: Sequence[str | int]) -> type[pydantic.BaseModel] | None:
    """The model class at a path of keys, if it is one."""
    at: Any = Recipe
    for key in path:
        if isinstance(key, int):
            continue
        if not (isinstance(at, type) and issubclass(at, pydantic.BaseModel)) or key not in at.model_fields:
            return None
        options = [at.model_fields[key].annotation]
        for option in list(options):
            options += typing.get_args(option)
        at = next((o for o in options if isinstance(o, type) and issubclass(o, pydantic.BaseModel)), None)
    return at if isinstance(at, type) and issubclass(at, pydantic.BaseModel) else None


def _sentence(raw: Any, error: Any) -> str:
    path = [str(p) for p in error["loc"]]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        other = meant(path, _section(error["loc"][:-1]))
        return f"{where}: unknown key" + (f"; did you mean {other}?" if other else "")
    if error["type"] == "missing":
        return f"{where}: is required"
    if error["type"] == "literal_error":
        expected = error["ctx"]["expected"]
        names = [e.strip(" '") for e in expected.replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(str(error["input"]), names, n=1, cutoff=0.0)
        return f"{where}: {error['input']!r} is not one of {expected}; did you mean {near[0]!r}?"
    return f"{where}: {error['msg']} (got {error['input']!r})"
