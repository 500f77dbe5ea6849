"""Whether a model's directory has its weights: hosts that join a run have its configuration and tokenizer alone."""

import pathlib

PATTERNS = ("*.safetensors", "*.bin")


def has_weights(model: str | pathlib.Path) -> bool:
    """Whether there are files of weights in a Hugging Face directory."""
    return any(True for pattern in PATTERNS for _ in pathlib.Path(model).glob(pattern))
