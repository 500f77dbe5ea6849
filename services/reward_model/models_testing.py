"""A tiny reward model as a Hugging Face directory: penstock.tiny_model's tokenizer, a random sequence classifier."""

import json
import pathlib
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, Gemma2Config, GPT2Config, MistralConfig, Qwen3Config

from penstock.tiny_model import make_model


def make_reward_model(folder: pathlib.Path, family: str = "qwen3", **changes: Any) -> pathlib.Path:
    """`changes`: of its config.json, made after the weights were written."""
    make_model(folder)
    config = _config(family, Qwen3Config.from_pretrained(folder, num_labels=1))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)  # scores that differ by more than rounding
    model.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def _config(family: str, qwen3: Any) -> Any:
    """Of a model of the family with the same vocabulary and as many positions."""
    vocabulary, positions = qwen3.vocab_size, qwen3.max_position_embeddings
    if family == "gpt2":
        sizes = {"n_positions": positions, "n_embd": 32, "n_layer": 2, "n_head": 2}
        return GPT2Config(vocab_size=vocabulary, num_labels=1, bos_token_id=1, eos_token_id=2, **sizes)
    kind = {"mistral": MistralConfig, "gemma2": Gemma2Config}.get(family)
    if kind is None:
        return qwen3
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": positions}
    return kind(vocab_size=vocabulary, num_labels=1, **sizes, **heads)
