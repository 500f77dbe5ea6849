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
    try:
        return json.loads(pathlib.Path(path, "config.json").read_text()).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None
