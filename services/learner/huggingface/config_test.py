"""Model directories: what is read, and what is refused rather than trained as another model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.memory_plan import shapes
from services.learner.huggingface import config as hf_config
from services.learner.huggingface.config import read_config
from services.learner.interface.errors import UnsupportedModel
from services.learner.testing.tiny_models import tiny_config


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(family: str = "qwen3", **changes: Any) -> Path:
        tiny = tiny_config(family)
        tiny.architectures = [{"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[family] + "ForCausalLM"]
        (tmp_path / "config.json").write_text(json.dumps(tiny.to_dict() | changes))
        return tmp_path

    return write


def test_families_differ_where_they_should(write: Callable[..., Path]) -> None:
    qwen3, qwen2, llama = (read_config(write(family)) for family in ("qwen3", "qwen2", "llama"))
    assert (qwen3.qk_norm, qwen2.qk_norm, llama.qk_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen2.qkv_bias, llama.qkv_bias) == (False, True, False)
    assert (qwen3.head_dim, qwen2.head_dim) == (32, 16)
    assert (qwen3.rope_factor, llama.rope_factor, llama.rope_base) == (None, 8.0, 500000.0)


def test_recipes_know_the_same_architectures() -> None:
    assert tuple(hf_config.ARCHITECTURES) == shapes.MEGATRON


def test_the_rope_fields_of_transformers_4(write: Callable[..., Path]) -> None:
    got = read_config(write(rope_parameters=None, rope_theta=12345.0, rope_scaling=None))
    assert (got.rope_base, got.rope_factor) == (12345.0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "MambaForCausalLM is not .*megatron; known: .*Qwen3ForCausalLM, .*; learner.backend=transformers",
        ),
        ({"architectures": None}, "architecture .none. is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling .*yarn.* is not supported"),
    ],
)
def test_what_is_not_implemented_is_refused(write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_config(write(**changes))


def test_no_model_directory(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="is not a Hugging Face model directory"):
        read_config(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="is not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    with pytest.raises(UnsupportedModel, match="has no field 'vocab_size'"):
        read_config(tmp_path)
