"""Tokens drafted by a head of EAGLE-3 that knows nothing: what it guesses is right by chance, and must not show."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.generation.drafting.drafting_testing import Drafting

pytest_plugins = ["services.generation.drafting.drafting_testing"]
pytestmark = pytest.mark.asyncio(loop_scope="module")
HIDDEN, WORDS = 64, 64


def head(folder: pathlib.Path) -> pathlib.Path:
    """A random head for a model of `reference_testing.tiny`."""
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": HIDDEN // 2,
        "vocab_size": WORDS,
        "draft_vocab_size": WORDS,
        "max_position_embeddings": 512,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 2], "use_aux_hidden_state": True},
    }
    shapes = {
        "fc": (HIDDEN, 3 * HIDDEN),
        "midlayer.self_attn.q_proj": (HIDDEN, 2 * HIDDEN),
        "midlayer.self_attn.k_proj": (HIDDEN // 2, 2 * HIDDEN),
        "midlayer.self_attn.v_proj": (HIDDEN // 2, 2 * HIDDEN),
        "midlayer.self_attn.o_proj": (HIDDEN, HIDDEN),
        "midlayer.mlp.gate_proj": (2 * HIDDEN, HIDDEN),
        "midlayer.mlp.up_proj": (2 * HIDDEN, HIDDEN),
        "midlayer.mlp.down_proj": (HIDDEN, 2 * HIDDEN),
        "midlayer.input_layernorm": (HIDDEN,),
        "midlayer.hidden_norm": (HIDDEN,),
        "midlayer.post_attention_layernorm": (HIDDEN,),
        "norm": (HIDDEN,),
        "lm_head": (WORDS, HIDDEN),
    }
    random = torch.Generator().manual_seed(0)
    made = {
        f"{name}.weight": torch.ones(shape) if len(shape) == 1 else 0.2 * torch.randn(shape, generator=random)
        for name, shape in shapes.items()
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def speculative(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return {"method": "eagle3", "model": str(head(tmp_path_factory.mktemp("eagle3"))), "num_speculative_tokens": 3}


class TestHead(Drafting):
    """See Drafting."""

    taken = 1
