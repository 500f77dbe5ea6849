"""What a recipe says of tokens drafted ahead that the engine could not do: models that are not there or not fit."""

import json
import pathlib
from collections.abc import Iterator

from penstock.memory_plan import architecture
from penstock.recipes.checks.paths import model_problems, vocabulary
from penstock.recipes.choices import DRAFTS
from penstock.recipes.recipe import Recipe

KEY = "generation.speculative"
FURTHER = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")
"""How config.json files say how many layers a model has for tokens further on."""


def check_drafts(recipe: Recipe) -> list[str]:
    """One sentence for each key that the chosen method cannot work with. Packages of the engine's own environment are
    asked for where it is (`penstock.cli.drafting`)."""
    asked = recipe.generation.speculative
    return [] if asked is None else list(_problems(recipe))


def _problems(recipe: Recipe) -> Iterator[str]:
    asked = recipe.generation.speculative
    assert asked is not None
    for name in DRAFTS[asked.method].required:
        if getattr(asked, name) is None:
            yield f"{KEY}.{name}: is required for {asked.method}"
    least, most = asked.prompt_lookup_min, asked.prompt_lookup_max
    if asked.method == "ngram" and least is not None and most is not None and least > most:
        yield f"{KEY}.prompt_lookup_min: {least} is above prompt_lookup_max {most}"
    ranks = asked.draft_tensor_parallel_size
    if ranks not in (None, 1, recipe.generation.tensor):
        yield f"{KEY}.draft_tensor_parallel_size: {ranks} is neither 1 nor generation.tensor {recipe.generation.tensor}"
    if asked.model is not None and "model" in DRAFTS[asked.method].parameters:
        yield from model_problems(f"{KEY}.model", asked.model) or _of_model(asked.method, asked.model, recipe)
    if asked.method == "mtp" and not any(_config(recipe.model.path).get(name) for name in FURTHER):
        yield (
            f"{KEY}.method: mtp drafts by layers that the model has for it, and {recipe.model.path} has none "
            f"({FURTHER[0]} in its config.json); use ngram"
        )


def _of_model(method: str, path: str, recipe: Recipe) -> Iterator[str]:
    theirs, ours = vocabulary(path), vocabulary(recipe.model.path)
    if method == "draft_model" and ours is not None and theirs != ours:
        yield f"{KEY}.model: {path} has {theirs} tokens and {recipe.model.path} {ours}; use one that has as many"
    named = (architecture(path) or "none").lower()
    told = any(key == "draft_vocab_size" or key.startswith("speculators") for key in _config(path))
    if method == "eagle3" and "eagle3" not in named and not told:
        yield f"{KEY}.model: {path} is no head of EAGLE-3 but {architecture(path)}; use one made for the policy"


def _config(path: str) -> dict[str, object]:
    try:
        said = json.loads(pathlib.Path(path, "config.json").read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(said, dict):
        return {}
    inner = said.get("text_config")  # of a model that reads more than text
    return {**inner, **said} if isinstance(inner, dict) else said
