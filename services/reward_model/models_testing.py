"""A tiny reward model as a Hugging Face directory: penstock.tiny_model's tokenizer, a random sequence classifier."""

import json
import pathlib
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, Qwen3Config

from penstock.tiny_model import make_model


def make_reward_model(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """`changes`: of its config.json, made after the weights were written."""
    make_model(folder)
    config = Qwen3Config.from_pretrained(folder, num_labels=1)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)  # scores that differ by more than rounding
    model.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(raw))
    return folder
