"""Names of a hub in a recipe: fetched into the user's cache, and replaced by where they lie there.

    model.path: Qwen/Qwen3-0.6B              a model; Qwen/Qwen3-0.6B@<revision> pins it
    data.train: openai/gsm8k:main:train      parquet or JSON Lines files of a data set's configuration and split
    data.train: org/rows:train               the same without a configuration

What is local comes first: a name is fetched only where no file and no folder of its first part lies. The resolved
recipe has the folder of the cache, which names the commit, so a run that goes on reads the very same files. Where a hub
is, and the token it wants, are huggingface_hub's settings (HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE); the token
is written nowhere.
"""

import copy
import glob
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

_PART = r"[A-Za-z0-9][\w.-]*"
_MODEL = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+))?")
_ROWS = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+))?(?::([\w.-]+))?:([\w.-]+)")
ROWS = ("parquet", "jsonl")
WEIGHTS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt")
"""Of a model: what is read of it. Pickled weights are not even fetched."""


class HubError(ValueError):
    """A name that cannot be fetched. `key` is where the recipe has it; the text says why."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")


def fetched(raw: dict[str, Any]) -> dict[str, Any]:
    """The recipe's mapping with names of a hub replaced by local paths. Raises HubError."""
    raw = copy.deepcopy(raw)
    for key, section, name in _models(raw):
        if (match := _named(_MODEL, section.get(name))) is not None:
            section[name] = _snapshot(key, match[1], match[2], "model", WEIGHTS)
    for key, section, name in _sets(raw):
        if (match := _named(_ROWS, section.get(name))) is not None:
            section[name] = _rows(key, match)
    return raw


def _named(form: re.Pattern[str], value: Any) -> re.Match[str] | None:
    """A name of a hub; None for anything that is, or could be, a local path."""
    match = form.fullmatch(value) if isinstance(value, str) else None
    if match is None or os.path.lexists(value) or os.path.lexists(value.partition("/")[0]):
        return None
    return match


MODELS = (
    ("model", "path"),
    ("teacher", "path"),
    ("algorithm", "critic", "path"),
    ("generation", "speculative", "model"),
)
"""Where a recipe names models, those of rewards beside."""


def _models(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    for *above, name in MODELS:
        if (section := _at(raw, above)) is not None:
            yield ".".join([*above, name]), section, name
    for prefix, source in _sources(raw):
        rewards = (_at(source, ["environment"]) or {}).get("rewards")
        for i, reward in enumerate(rewards if isinstance(rewards, (list, tuple)) else []):
            for kind in ("model", "judge"):
                if isinstance(reward, dict) and isinstance(reward.get(kind), dict):
                    yield f"{prefix}environment.rewards[{i}].{kind}.path", reward[kind], "path"


def _sets(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    for above, source in _sources(raw):
        if (section := _at(source, ["data"])) is not None:
            for name in ("train", "eval"):
                yield f"{above}data.{name}", section, name


def _sources(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The recipe itself and those that it mixes in, with what stands before their keys."""
    yield "", raw
    mixed = raw.get("mixture")
    for i, source in enumerate(mixed if isinstance(mixed, (list, tuple)) else []):
        if isinstance(source, dict):
            yield f"mixture[{i}].", source


def _at(raw: dict[str, Any], keys: list[str]) -> dict[str, Any] | None:
    at: Any = raw
    for key in keys:
        at = at.get(key) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else None


def _rows(key: str, match: re.Match[str]) -> str:
    """The files of one split, as a path that `data` understands."""
    repository, revision, configuration, split = match.groups()
    below = [f"{configuration}/"] if configuration else ["", "data/", "default/"]
    patterns = [f"{folder}{split}{rest}.{kind}" for folder in below for rest in ("", "-*") for kind in ROWS]
    folder = pathlib.Path(_snapshot(key, repository, revision, "dataset", tuple(patterns)))
    for pattern in patterns:
        found = sorted(glob.glob(str(folder / pattern)))
        if found:
            return found[0] if len(found) == 1 else str(folder / pattern)
    raise HubError(
        key,
        f"the data set {repository} has no files {' or '.join(patterns[:4])}; load it with `datasets` and name the "
        "directory that save_to_disk wrote",
    )


def _snapshot(key: str, repository: str, revision: str | None, kind: str, patterns: tuple[str, ...]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(
            snapshot_download(
                repository, revision=revision, repo_type=kind, allow_patterns=list(patterns), etag_timeout=5
            )
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        why = " ".join(str(error).split("\n")[0].split())
        where = f" at {revision}" if revision else ""
        raise HubError(
            key,
            f"there is no {repository!r} here, and as a {kind} of the hub it cannot be fetched{where} ({why}); name a "
            "local path, or see HF_ENDPOINT, HF_HOME and HF_TOKEN",
        ) from error
