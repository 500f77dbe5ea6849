"""What transformers says of a tiny model, and versions of it: what the real engine is held to."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from penstock.common.v1.common_pb2 import SamplingParams
from penstock.tensors import make_manifest
from penstock.tiny_model import make_model
from penstock.trajectory.v1.trajectory_pb2 import Routes
from penstock.weights.v1.weights_pb2 import Manifest
from services.generation.engine import Engine


def tiny(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """A random model of two layers and 64 tokens."""
    make_model(folder, seed=seed, hidden=64, layers=2, intermediate=128, heads=2, kv_heads=1)
    return folder


def weights(model: pathlib.Path, scale: float) -> Mapping[str, torch.Tensor]:
    """The model's tensors, its matrices scaled."""
    return {
        name: t * (scale if "norm" not in name else 1.0) for name, t in load_file(model / "model.safetensors").items()
    }


def version_file(path: pathlib.Path, tensors: Mapping[str, torch.Tensor], step: int) -> Manifest:
    """A version 1.`step` of these tensors, its bytes in `path`."""
    parts = [(n, "float32", list(t.shape), t.contiguous().numpy().tobytes()) for n, t in tensors.items()]
    path.write_bytes(b"".join(p[3] for p in parts))
    return make_manifest(1, step, parts)


@functools.cache
def _reference(model: pathlib.Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@torch.inference_mode()
def logits_of(
    model: pathlib.Path, tensors: Mapping[str, torch.Tensor], prompt: Sequence[int], tokens: Sequence[int]
) -> torch.Tensor:
    """Logits [len(tokens), vocabulary] in fp32 at the places of `tokens` after `prompt`."""
    reference = _reference(model)
    reference.load_state_dict(dict(tensors))
    logits: torch.Tensor = reference(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return logits


def distribution(
    model: pathlib.Path, tensors: Mapping[str, torch.Tensor], prompt: Sequence[int], tokens: Sequence[int]
) -> torch.Tensor:
    """Log-probs [len(tokens), vocabulary] at temperature 1, likewise."""
    return logits_of(model, tensors, prompt, tokens).log_softmax(-1)


def expected(
    model: pathlib.Path, tensors: Mapping[str, torch.Tensor], prompt: Sequence[int], tokens: Sequence[int]
) -> torch.Tensor:
    """Log-probs [len(tokens)] of `tokens` after `prompt`, likewise."""
    return distribution(model, tensors, prompt, tokens).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


@dataclass
class Drawn:
    """One completion: tokens [n], log-probabilities [n], spans (first, version label) from its start, how it ended,
    the sizes of its chunks, and their routes."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[tuple[int, str]] = field(default_factory=list)
    finish: str | None = None
    chunks: list[int] = field(default_factory=list)
    routes: list[Routes] = field(default_factory=list)

    def by_version(self) -> list[tuple[int, int, str]]:
        """(first, end, version label) of the parts."""
        ends = [first for first, _ in self.spans[1:]] + [len(self.tokens)]
        return [(first, end, label) for (first, label), end in zip(self.spans, ends, strict=True)]


async def draw(
    engine: Engine, name: str, prompt: Sequence[int], sampling: SamplingParams, routes_from: int | None = None
) -> Drawn:
    """A whole completion of the engine."""
    drawn = Drawn()
    async for chunk in engine.generate(name, prompt, sampling, routes_from=routes_from):
        drawn.routes += [] if chunk.routes is None else [chunk.routes]
        assert len(chunk.tokens) == len(chunk.logprobs)
        drawn.spans += [(first + len(drawn.tokens), label) for first, label in chunk.spans]
        drawn.tokens += chunk.tokens
        drawn.logprobs += chunk.logprobs
        drawn.finish = chunk.finish_reason
        drawn.chunks.append(len(chunk.tokens))
    return drawn
