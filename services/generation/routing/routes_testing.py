"""What transformers says of a tiny mixture's routes: what the real engine is held to."""

import asyncio
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from penstock.common.v1.common_pb2 import SamplingParams
from penstock.trajectories.routes import Rows, unpacked
from penstock.trajectory.v1.trajectory_pb2 import Routes
from services.generation.engine import Engine
from services.generation.reference_testing import draw

PROMPT = [3, *range(6, 40), *range(6, 40), 4]
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=50)


def mixture(folder: pathlib.Path) -> pathlib.Path:
    """A random mixture of three layers with 2 of 8 experts, and 64 tokens; its routers have an opinion."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        max_position_embeddings=256,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    )
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.mul_(20.0 if ".gate.weight" in name else 2.0 if parameter.dim() > 1 else 1.0)
    made.save_pretrained(folder)
    return folder


@torch.inference_mode()
def routes_of(model: pathlib.Path, tensors: Mapping[str, torch.Tensor] | None, tokens: Sequence[int]) -> torch.Tensor:
    """The experts [len(tokens) - 1, layers, top], rising, of a mixture's inputs; tensors: another version's."""
    found = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if tensors is not None:
        other = model.parent / "other"
        found.save_pretrained(other)
        save_file(dict(tensors), other / "model.safetensors", {"format": "pt"})
        found = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32).eval()
    logits = found(torch.tensor([tokens[:-1]]), output_router_logits=True).router_logits
    return torch.stack(logits, 1).topk(found.config.num_experts_per_tok, -1).indices.sort(-1).values


def joined(routes: Sequence[Routes], first: int = 0) -> Rows:
    """The rows of a completion's chunks, which must follow each other without a gap."""
    for each in routes:
        assert each.first == first
        first += each.count
    return np.concatenate([unpacked(each) for each in routes])


async def several(engine: Engine, model: pathlib.Path, name: str) -> None:
    """Sixteen in flight, of different lengths; their rows against transformers."""
    prompts = [[*PROMPT[: 8 + 4 * i], 7 + i] for i in range(16)]
    drawn = await asyncio.gather(*(draw(engine, f"{name}{i}", p, SAMPLING, 0) for i, p in enumerate(prompts)))
    for prompt, each in zip(prompts, drawn, strict=True):
        assert torch.equal(torch.from_numpy(joined(each.routes)).long(), routes_of(model, None, prompt + each.tokens))
