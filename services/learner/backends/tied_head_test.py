"""A head beside the embedding that it is said to be: the same answer from every backend."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.errors import UnsupportedModel
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}


def with_head(folder: Path, family: str, moved: float) -> Path:
    """A tied model with a head in its file, so far from the embedding."""
    file = save_tiny_model(folder, family, tied=True) / "model.safetensors"
    tensors = load_file(file)
    (embedding,) = (t for name, t in tensors.items() if name.endswith(("embed_tokens.weight", "wte.weight")))
    save_file({**tensors, "lm_head.weight": embedding.clone() + moved}, file, metadata={"format": "pt"})
    return folder


def _made(folder: Path, backend: str) -> Any:
    try:
        policy = BACKENDS[backend].create(spec_of(folder, Parallel(), Optimizer(), seed=0))
    except UnsupportedModel as error:
        return str(error)
    return policy.logprobs(random_batch(1))


@pytest.mark.parametrize(
    ("family", "backend"), [("qwen3", "megatron"), ("qwen3", "transformers"), ("gpt2", "transformers")]
)
def test_another_head_than_the_embedding_is_refused_by_name_and_the_same_one_is_not(
    family: str, backend: str, tmp_path: Path
) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    assert isinstance(run_ranks(1, _made, with_head(same, family, 0.0), backend)[0], torch.Tensor)
    words = run_ranks(1, _made, with_head(other, family, 0.1), backend)[0]
    assert "tie_word_embeddings is true, but lm_head.weight is another than" in words and str(other) in words


def test_said_to_be_untied_the_head_is_trained_by_both(tmp_path: Path) -> None:
    folder = with_head(tmp_path, "qwen3", 0.1)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": False}))
    one, two = (run_ranks(1, _made, folder, backend)[0] for backend in BACKENDS)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
