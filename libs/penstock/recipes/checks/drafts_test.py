"""Tokens drafted ahead: each method takes its own settings, and is refused where its model is not there or unfit."""

import json
import pathlib
from typing import Any

import pytest

from penstock.recipes import dump, resolve
from penstock.recipes.refusals_testing import problems


@pytest.fixture
def draft(raw: dict[str, Any], tmp_path: pathlib.Path) -> pathlib.Path:
    """A second model beside that of the recipe, of as many tokens."""
    for name in ("model", "draft"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(
            json.dumps({"vocab_size": 64, "architectures": ["Qwen3ForCausalLM"]})
        )
    return tmp_path / "draft"


@pytest.mark.parametrize(
    ("speculative", "words"),
    [
        ("{method: ngrams}", "'ngrams' is not one of 'ngram', 'suffix', 'draft_model', 'eagle3' or 'mtp'"),
        (
            "{method: suffix, prompt_lookup_max: 3}",
            "prompt_lookup_max: suffix does not use it; it uses num_speculative_t",
        ),
        (
            "{method: ngram, model: x}",
            "model: ngram does not use it; it uses num_speculative_tokens, prompt_lookup_max",
        ),
        ("{method: mtp, model: x}", "model: mtp does not use it; it uses num_speculative_tokens"),
        ("{method: ngram, prompt_lookup_max: 2, prompt_lookup_min: 3}", "_min: 3 is above prompt_lookup_max 2"),
        ("{method: draft_model}", "generation.speculative.model: is required for draft_model"),
        ("{method: eagle3, model: /none}", "generation.speculative.model: no directory '/none'"),
        ("{method: eagle3, model: DRAFT}", "is no head of EAGLE-3 but Qwen3ForCausalLM"),
        (
            "{method: draft_model, model: DRAFT, draft_tensor_parallel_size: 2}",
            "2 is neither 1 nor generation.tensor 1",
        ),
        ("{method: mtp}", "has none (num_nextn_predict_layers in its config.json); use ngram"),
        ("{method: ngram, num_speculative_tokens: 0}", "num_speculative_tokens: Input should be greater than 0"),
    ],
)
def test_what_a_method_cannot_work_with_is_refused(
    raw: dict[str, Any], draft: pathlib.Path, speculative: str, words: str
) -> None:
    assert words in problems(raw, f"generation.speculative={speculative.replace('DRAFT', str(draft))}")


def test_a_draft_model_of_another_vocabulary_is_refused(raw: dict[str, Any], draft: pathlib.Path) -> None:
    asked = f"generation.speculative={{method: draft_model, model: {draft}}}"
    assert resolve(raw, [asked]).generation.speculative is not None
    (draft / "config.json").write_text(json.dumps({"vocab_size": 65}))
    assert "has 65 tokens and" in problems(raw, asked)


def test_a_method_brings_its_own_defaults_and_none_of_anothers(raw: dict[str, Any], draft: pathlib.Path) -> None:
    def config(asked: str) -> Any:
        speculative = resolve(raw, [f"generation.speculative={asked}"]).generation.speculative
        assert speculative is not None
        return speculative.config

    usual = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 5, "prompt_lookup_min": 5}
    assert config("{method: ngram}") == usual
    assert config("{method: ngram, prompt_lookup_max: 3}") == {**usual, "prompt_lookup_max": 3, "prompt_lookup_min": 3}
    assert config(f"{{method: draft_model, model: {draft}}}") == {
        "method": "draft_model",
        "model": str(draft),
        "num_speculative_tokens": 3,
    }
    assert "suffix_decoding_max_tree_depth" in config("{method: suffix}")


def test_a_recipe_with_everything_spelled_out_is_read_again(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    from penstock.recipes import load

    recipe = resolve(raw, ["generation.speculative={method: ngram, prompt_lookup_max: 3}"])
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load(tmp_path / "again.yaml") == recipe
