"""What the ranks of every layout publish is what one rank would, each tensor once, and about as much on each."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Lora, Parallel
from services.learner.algorithms.table import algorithm_of, make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import Batch, broadcast
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import (
    random_batch,
    ranked_samples,
    save_tiny_model,
    save_tiny_scoring_model,
)

BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}
LAYOUTS: dict[str, tuple[str, str, int, Parallel]] = {
    "tp2": ("megatron", "qwen3", 2, Parallel(tensor=2)),
    "pp2": ("megatron", "qwen3", 2, Parallel(pipeline=2)),
    "pp2-interleaved": ("megatron", "qwen3", 2, Parallel(pipeline=2, virtual_stages=2)),
    "dp2": ("megatron", "qwen3", 2, Parallel()),
    "cp2": ("megatron", "qwen3", 2, Parallel(context=2)),
    "tp2-dp2": ("megatron", "qwen3", 4, Parallel(tensor=2)),
    "tp2-pp2": ("megatron", "qwen3", 4, Parallel(tensor=2, pipeline=2)),
    "ep2": ("megatron", "qwen3_moe", 2, Parallel(expert=2)),
    "ep2-dp4": ("megatron", "qwen3_moe", 4, Parallel(expert=2)),
    "tp2-sp-ep2": ("megatron", "qwen3_moe", 2, Parallel(tensor=2, sequence_parallel=True, expert=2)),
    "pp2-ep2": ("megatron", "qwen3_moe", 4, Parallel(pipeline=2, expert=2)),
    "tp2-sp-ep2-dp2": ("megatron", "qwen3_moe", 4, Parallel(tensor=2, sequence_parallel=True, expert=2)),
    "tp2-cp2": ("megatron", "qwen3", 4, Parallel(tensor=2, context=2)),
    "pp2, tied": ("megatron", "tied", 2, Parallel(pipeline=2)),
    "tp2-pp2, tied": ("megatron", "tied", 4, Parallel(tensor=2, pipeline=2)),
    "pp2, scores": ("megatron", "scores", 2, Parallel(pipeline=2)),
    "tp2, scores": ("megatron", "scores", 2, Parallel(tensor=2)),
    "fsdp2, scores": ("transformers", "scores", 2, Parallel()),
    "fsdp2, tied": ("transformers", "tied", 2, Parallel()),
    "fsdp2": ("transformers", "qwen3", 2, Parallel()),
    "fsdp3": ("transformers", "qwen3", 3, Parallel()),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in ("qwen3", "qwen3_moe"):
        save_tiny_model(root / kind, kind)
    save_tiny_model(root / "tied", "qwen3", tied=True)
    save_tiny_scoring_model(root / "scores", "qwen3")
    return root


def _make(backend: str, folder: Path, parallel: Parallel, lora: Lora | None) -> Any:
    spec = spec_of(folder, parallel, lora=lora, seed=3, scores=folder.name == "scores", micro_batch_tokens=80)
    policy = BACKENDS[backend].create(spec)
    if lora is not None:  # adapters begin as nothing
        for name, parameter in _parameters(policy):
            if "lora" in name:
                with torch.no_grad():
                    parameter.fill_(0.01)
    return policy


def _parameters(policy: Any) -> list[tuple[str, Any]]:
    if isinstance(policy, TransformersPolicy):
        return list(policy._network.model.named_parameters())
    return [each for model in policy._models for each in model.named_parameters()]


def _given(backend: str, folder: Path, parallel: Parallel, lora: Lora | None = None) -> Any:
    """What a rank has of the first version, and of the one after a step."""
    policy = _make(backend, folder, parallel, lora)
    first = list(policy.owned()), list(policy.export())
    scores = folder.name == "scores"
    recipe = recipe_of("reward_model" if scores else "grpo")
    batch = Batch.from_samples(ranked_samples(3), algorithm_of(recipe).signal) if scores else random_batch(3)
    make_trainer(recipe, policy).step(broadcast(batch, torch.device("cpu")))
    return *first, list(policy.owned()), list(policy.export())


def _check(found: list[Any], one: Any) -> None:
    whole, exported = dict(one[1]), dict(found[0][1])
    owned = [tensor for own, *_ in found for tensor in own]
    assert sorted(name for name, _ in owned) == sorted(whole), "each tensor once"
    assert exported.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) and tensor.dtype == whole[name].dtype for name, tensor in owned)
    stepped, later = dict(found[0][3]), [tensor for *_, own, _ in found for tensor in own]
    assert sorted(name for name, _ in later) == sorted(whole)
    assert all(torch.equal(tensor, stepped[name]) for name, tensor in later), "of a step's weights, too"
    assert any(not torch.equal(tensor, exported[name]) for name, tensor in later)
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for _, tensor in owned)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_ranks_of_every_layout_publish_what_one_rank_would(name: str, models: Path) -> None:
    backend, kind, world, parallel = LAYOUTS[name]
    found = run_ranks(world, _given, backend, models / kind, parallel)
    _check(found, run_ranks(1, _given, backend, models / kind, Parallel())[0])
    sizes = [sum(tensor.nbytes for _, tensor in own) for own, *_ in found]
    largest = max(tensor.nbytes for _, tensor in found[0][1])
    stages = parallel.pipeline
    assert max(sizes) <= sum(sizes) / world + (stages + 1) * largest and min(sizes) > 0, sizes


@pytest.mark.parametrize("name", ["tp2", "dp2", "fsdp2"])
def test_adapters_are_merged_into_what_is_published(name: str, models: Path) -> None:
    backend, kind, world, parallel = LAYOUTS[name]
    lora = Lora(rank=4, alpha=8)
    found = run_ranks(world, _given, backend, models / kind, parallel, lora)
    _check(found, run_ranks(1, _given, backend, models / kind, Parallel(), lora)[0])
    plain = dict(run_ranks(1, _given, backend, models / kind, Parallel())[0][1])
    assert any(not torch.equal(tensor, plain[name]) for own, *_ in found for name, tensor in own)
