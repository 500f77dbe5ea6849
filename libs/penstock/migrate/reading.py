"""A configuration as a flat mapping of dotted keys: YAML, JSON, or overrides as a command line has them.

    grpo: {num_prompts_per_step: 32}            grpo.num_prompts_per_step
    algorithm.adv_estimator: grpo               algorithm.adv_estimator
    python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo \\

References to other keys (`${policy.model_name}`, `${.beta}`, `${oc.select:a.b,1}`, `${mul:…}`) are resolved; one that
cannot be is named and its key left out.
"""

import math
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from penstock.recipes.loading import parse

_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_SUMS: Mapping[str, Callable[[list[int]], int]] = {
    "mul": math.prod,
    "add": sum,
    "max": max,
    "div": lambda numbers: numbers[0] // numbers[1],
}
_OVERRIDE = re.compile(r"\+{0,2}([A-Za-z_][\w.@/]*)=(.*)", re.DOTALL)


class CannotRead(ValueError):
    """The file is no configuration; the text says why."""


def read(path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    """The dotted keys of a file, and a line for each reference that cannot be resolved. Raises CannotRead."""
    try:
        text = path.read_text()
        whole = parse(text)
    except OSError as error:
        raise CannotRead(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CannotRead(f"{path}: is not text: {error}") from error
    except yaml.YAMLError as error:
        overrides = _overrides(text)
        if not overrides:
            raise CannotRead(f"{path}: is neither YAML nor JSON nor key=value: {error}") from error
        whole = overrides
    if isinstance(whole, str):
        whole = _overrides(text)
    if not isinstance(whole, Mapping) or not whole:
        raise CannotRead(f"{path}: must be a mapping of keys, or a command line of key=value")
    return resolved(flat(whole))


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping; an empty section is no key."""
    keys: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        keys |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return keys


def resolved(keys: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys with references replaced by what they mean, and a line for each that means nothing here."""
    found: dict[str, Any] = {}
    lost: list[str] = []
    for key, value in keys.items():
        try:
            found[key] = _meaning(value, key, keys, ())
        except LookupError as error:
            lost.append(f"{key}: {value!r} refers to what is not in this file ({error.args[0]}); not carried over")
    return found, lost


def _overrides(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError:
        return {}
    pairs = [match for word in words if (match := _OVERRIDE.fullmatch(word)) is not None]
    return {match[1]: _value(match[2]) for match in pairs}


def _value(text: str) -> Any:
    try:
        return parse(text)
    except yaml.YAMLError:
        return text


def _meaning(value: Any, key: str, keys: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    """Raises LookupError for a reference to nothing, or in a circle."""
    if isinstance(value, list):
        return [_meaning(each, key, keys, above) for each in value]
    while isinstance(value, str) and (match := _REFERENCE.search(value)) is not None:
        meant = _referred(match[1], key, keys, (*above, key))
        value = meant if match[0] == value else value.replace(match[0], str(meant))
    return value


def _referred(words: str, key: str, keys: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    resolver, colon, rest = words.partition(":")
    if not colon:
        return _of(_absolute(words.strip(), key), keys, above)
    parts = [part.strip() for part in rest.split(",")]
    if resolver == "oc.select":
        try:
            return _of(_absolute(parts[0], key), keys, above)
        except LookupError:
            return _value(parts[1]) if len(parts) > 1 else None
    if resolver in _SUMS:
        try:
            return _SUMS[resolver]([int(part) for part in parts])
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise LookupError(f"{words!r} is not of numbers") from error
    raise LookupError(f"resolver {resolver!r} is unknown")


def _of(name: str, keys: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    if name in above:
        raise LookupError("it refers to itself")
    if name not in keys:
        raise LookupError(f"no key {name}")
    return _meaning(keys[name], name, keys, above)


def _absolute(name: str, key: str) -> str:
    """`.beta` is beside the key, `..beta` a section above it."""
    up = len(name) - len(name.lstrip("."))
    if not up:
        return name
    sections = key.split(".")[:-up]
    return ".".join([*sections, name.lstrip(".")])
