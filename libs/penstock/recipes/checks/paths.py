"""Model directories, looked at without loading anything."""

import json
import os
import pathlib


def model_problems(key: str, path: str) -> list[str]:
    """One sentence if `path` is no Hugging Face model directory; empty otherwise."""
    if not os.path.isdir(path):
        return [f"{key}: no directory {path!r}"]
    if not os.path.isfile(os.path.join(path, "config.json")):
        return [f"{key}: {path!r} is not a Hugging Face model directory (no config.json in it)"]
    return []


def vocabulary(path: str) -> object:
    """A model's number of tokens; None where its directory does not say."""
    return _said(path, "vocab_size")


def positions(path: str) -> int | None:
    """The most tokens that a model reads at once; None where its directory does not say."""
    most = _said(path, "max_position_embeddings") or _said(path, "n_positions")
    return most if isinstance(most, int) else None


def _said(path: str, key: str) -> object:
    try:
        return json.loads(pathlib.Path(path, "config.json").read_text()).get(key)
    except (OSError, ValueError, AttributeError):
        return None
