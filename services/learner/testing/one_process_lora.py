"""Adapters in one process, written out by hand on a Hugging Face model: every backend is compared with it."""

import functools
import math
import zlib
from typing import Any

import torch
from torch.func import functional_call

from penstock.recipes.sections import Lora
from services.learner.testing.tiny_models import random_batch, tiny_model

SEED, SEEDS = 5, (1, 2, 3)
LORA = Lora(rank=4, alpha=8.0)
OPTIMIZER: dict[str, Any] = dict(learning_rate=1e-2, weight_decay=0.1, beta2=0.95, epsilon=1e-5, clip_gradient=0.1)
FUSED = {  # adapted layer -> Hugging Face weights that share its A
    "self_attention.linear_qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention.linear_proj": ["self_attn.o_proj"],
    "mlp.linear_fc1": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.linear_fc2": ["mlp.down_proj"],
}


class Reference:
    """transformers, with the adapters as plain tensors."""

    def __init__(self, family: str, tied: bool) -> None:
        self.base = tiny_model(family, tied)
        self.weights = {name: p.detach() for name, p in self.base.named_parameters()}
        self.a: dict[str, torch.Tensor] = {}
        self.b: dict[str, torch.Tensor] = {}
        for layer in range(4):
            for ours, parts in FUSED.items():
                inputs = self.weights[f"model.layers.{layer}.{parts[0]}.weight"].shape[1]
                bound = 1 / math.sqrt(inputs)
                generator = torch.Generator().manual_seed(SEED ^ zlib.crc32(f"{layer}.{ours}".encode()))
                a = torch.empty(LORA.rank, inputs).uniform_(-bound, bound, generator=generator)
                for part in parts:
                    name = f"model.layers.{layer}.{part}.weight"
                    self.a[name] = self.a.get(f"model.layers.{layer}.{parts[0]}.weight", a.requires_grad_())
                    self.b[name] = torch.zeros(self.weights[name].shape[0], LORA.rank, requires_grad=True)

    def merged(self) -> dict[str, torch.Tensor]:
        scale = LORA.alpha / LORA.rank
        return {n: w + scale * self.b[n] @ self.a[n] if n in self.b else w for n, w in self.weights.items()}

    def loss(self, seed: int) -> torch.Tensor:
        batch, weights = random_batch(seed), self.merged()
        logprobs = []
        for tokens in batch.tokens.long().split(batch.lengths.tolist()):
            logits = functional_call(self.base, weights, (tokens[None, :-1],)).logits[0].float()
            logp = torch.log_softmax(logits, -1)
            logprobs += [logp.new_zeros(1), logp.gather(1, tokens[1:, None])[:, 0]]
        return -(torch.cat(logprobs) * batch.mask).sum() / batch.mask.sum()


@functools.cache
def reference(family: str, tied: bool) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    model = Reference(family, tied)
    trained = list({id(t): t for t in [*model.a.values(), *model.b.values()]}.values())
    optimizer = torch.optim.AdamW(
        trained,
        lr=OPTIMIZER["learning_rate"],
        weight_decay=OPTIMIZER["weight_decay"],
        betas=(0.9, OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"],
    )
    steps = []
    for seed in SEEDS:
        optimizer.zero_grad()
        loss = model.loss(seed)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, OPTIMIZER["clip_gradient"])
        optimizer.step()
        steps.append((loss.item(), norm.item()))
    return steps, {name: w.detach() for name, w in model.merged().items()}


def check_adapters(
    base: dict[str, torch.Tensor], adapters: dict[str, torch.Tensor], merged: dict[str, torch.Tensor]
) -> None:
    """On rank 0: what is published of the adapters alone makes the model that is published whole."""
    adapted = {name.replace(".lora_A.", ".") for name in adapters if ".lora_A." in name}
    assert len(adapters) == 2 * len(adapted) and adapted <= base.keys()
    for name, weight in base.items():
        if name in adapted:
            a, b = (adapters[name.replace(".weight", f".lora_{side}.weight")] for side in "AB")
            weight = weight + LORA.alpha / LORA.rank * b @ a
        torch.testing.assert_close(weight, merged[name], rtol=0, atol=1e-6, msg=name)
    assert not base or len(adapted) == 4 * 7
