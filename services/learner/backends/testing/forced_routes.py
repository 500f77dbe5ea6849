"""Routes that are not a mixture's own, and transformers forced to take them, sequence by sequence."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.tiny_models import random_samples, stored

UNKNOWN = 255


def routed_samples(seed: int, layers: int, experts: int, top: int) -> list[TrainingSample]:
    """`random_samples` with rows: what begins alike went the same way, but for every third sample from its sixth token
    on; a fifth of the rows is unknown."""
    samples = random_samples(seed, count=9, longest=60)
    return [
        replace(s, routes=_rows(np.asarray(s.tokens), layers, experts, top, 0 if i % 3 else i + 1))
        for i, s in enumerate(samples)
    ]


def _rows(tokens: np.ndarray, layers: int, experts: int, top: int, own: int) -> np.ndarray:
    """own: 0, or what makes a sample's rows its own behind a beginning."""
    rows = np.empty((len(tokens) - 1, layers, top), np.uint8)
    for at in range(len(rows)):
        random = np.random.default_rng([own if at > 5 else 0, *tokens[: at + 1].tolist()])
        chosen = random.random((layers, experts)).argsort(-1)[:, :top]
        rows[at] = UNKNOWN if random.random() < 0.2 else np.sort(chosen, -1)
    return rows


def routed_batch(seed: int = 1, layers: int = 4, experts: int = 4, top: int = 2) -> Batch:
    return Batch.from_samples(routed_samples(seed, layers, experts, top), "advantage")


@contextmanager
def forced(model: Any, rows: list[Tensor | None]) -> Iterator[None]:
    """Inside, the model's routers send the tokens of its only sequence where rows[0] [n, layers, top] says."""
    gates = [layer.mlp.gate for layer in model.model.layers]
    kept = [gate.forward for gate in gates]

    def through(gate: Any, layer: int) -> Any:
        def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), gate.weight)
            chances = logits.softmax(-1, dtype=torch.float32)
            chosen = chances.topk(model.config.num_experts_per_tok, -1).indices
            if rows[0] is not None:
                told = rows[0][:, layer].long()
                chosen = torch.where(told[:, :1] == UNKNOWN, chosen, told)
            weights = chances.gather(1, chosen)
            return logits, (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), chosen

        return forward

    for layer, gate in enumerate(gates):
        gate.forward = through(gate, layer)
    try:
        yield
    finally:
        for gate, forward in zip(gates, kept, strict=True):
            gate.forward = forward


def forced_logprobs(model: Any, batch: Batch, routes: Tensor | None) -> Tensor:
    """[T] log-probs of trained tokens, 0 elsewhere."""
    found, rows = list[Tensor](), list[Tensor | None]([None])
    with forced(model, rows):
        for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True):
            tokens = batch.tokens[start : start + length].long()
            rows[0] = None if routes is None else routes[start : start + length - 1]
            logp = model(tokens[None, :-1]).logits[0].float().log_softmax(-1)
            found += [logp.new_zeros(1), logp.gather(1, tokens[1:, None])[:, 0]]
    return torch.cat(found) * (batch.mask > 0)


def forced_gradients(model: Any, batch: Batch) -> Mapping[str, Tensor]:
    """Of minus a hundredth of their sum, by the directory's names."""
    model.zero_grad()
    (-forced_logprobs(model, batch, batch.routes).sum() / 100).backward()
    return stored((name, p.grad) for name, p in model.named_parameters())
