"""A model of the Llama family whose head is its embedding takes versions, which have no head: SmolLM2's shape, tiny."""

import pathlib
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import make_manifest
from services.generation.engine import Engine, EngineSettings

TOKENS = [5, 60, 7, 80, 90, 10, 110]


def made(folder: pathlib.Path, seed: int) -> dict[str, torch.Tensor]:
    """A model directory; its tensors, as a learner publishes them."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    config = LlamaConfig(
        vocab_size=128, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True, **sizes
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
    model.save_pretrained(folder)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


async def test_a_tied_head_of_the_llama_family_takes_a_version_that_has_none(tmp_path: pathlib.Path) -> None:
    made(tmp_path / "first", 1)
    tensors = made(tmp_path / "next", 2)
    data = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    manifest = make_manifest(1, 1, [(name, "float32", list(t.shape), data[name]) for name, t in tensors.items()])
    (tmp_path / "version").write_bytes(b"".join(data.values()))
    said = []
    for start in ("first", "next"):
        settings = EngineSettings(str(tmp_path / start), dtype="float32", max_context=64, max_running=2)
        engine = await Engine.start(settings, PolicyVersion(epoch=1))
        try:
            before = (await engine.score("a", TOKENS, 1)).logprobs
            if start == "first":
                await engine.update(manifest, tmp_path / "version")
            said.append((before, (await engine.score("b", TOKENS, 1)).logprobs))
        finally:
            engine.stop()
    (before, updated), (_, fresh) = said
    assert updated == fresh != before
