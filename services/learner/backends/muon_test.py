"""Muon on every layout and either backend takes the steps of torch's own in one process, and goes on from a checkpoint.

torch makes a matrix orthogonal in bf16, which turns rounding into percents of a step; where steps are compared it does
so in fp32 on both sides.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes import Recipe
from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.gradients import gradients_of
from services.learner.backends.testing.megatron_steps import Case, check_case
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.batch import broadcast
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.one_process import OPTIMIZER, SEEDS, SETTINGS, compare
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LAYOUTS = {
    "one": Case(1, distributed=False),
    "tp2": Case(2, Parallel(tensor=2), distributed=False),
    "tp2-sp": Case(2, Parallel(tensor=2, sequence_parallel=True), distributed=False),
    "pp2": Case(2, Parallel(pipeline=2), distributed=False),
    "dp2": Case(2),  # replicated by itself
    "cp2": Case(2, Parallel(context=2)),
    "tp4-sp": Case(4, Parallel(tensor=4, sequence_parallel=True), distributed=False),  # fewer KV heads than ranks
}
BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    @functools.cache
    def make(family: str, tied: bool = False) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)

    return make


@pytest.fixture
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # the only one on the way is that of torch's Muon


def _make(backend: str, model_dir: Path, parallel: Parallel, precision: str = "float32", **others: Any) -> Any:
    return BACKENDS[backend].create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(**{"name": "muon", **OPTIMIZER, **others.pop("optimizer", {})}),
            precision,
            micro_batch_tokens=80,
            head_chunk=11,
            seed=1,
            **others,
        )
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_megatron_steps_whole_matrices(
    name: str, model_dir: Callable[..., Path], in_fp32: None
) -> None:
    check_case(model_dir("qwen3"), LAYOUTS[name], "qwen3", False, "grpo", "muon")


@pytest.mark.parametrize(("family", "tied", "name"), [("qwen2", True, "tp2"), ("llama", False, "tp2-sp")])
def test_biases_and_tied_embeddings_are_adamws(
    family: str, tied: bool, name: str, model_dir: Callable[..., Path], in_fp32: None
) -> None:
    check_case(model_dir(family, tied), LAYOUTS[name], family, tied, "grpo", "muon")


def _train_mixture(model_dir: Path, parallel: Parallel) -> Any:
    policy = _make("megatron", model_dir, parallel)
    trainer = make_trainer(recipe_of(), policy)
    for seed in SEEDS:
        trainer.step(random_batch(seed))
    return dict(policy.export())


def test_every_expert_has_matrices_of_its_own(model_dir: Callable[..., Path], in_fp32: None) -> None:
    alone = run_ranks(1, _train_mixture, model_dir("qwen3_moe"), Parallel())[0]
    shared_out = Parallel(tensor=2, sequence_parallel=True, expert=2)
    for name, tensor in run_ranks(2, _train_mixture, model_dir("qwen3_moe"), shared_out)[0].items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-4, msg=name)


def _train_transformers(model_dir: Path, settings: Recipe, tensor: int) -> Any:
    policy = _make("transformers", model_dir, Parallel(tensor=tensor), keep_reference=True)
    trainer = make_trainer(settings, policy)
    steps: list[dict[str, Any]] = [
        {"weights": dict(policy.export()), "logprobs": policy.logprobs(random_batch(SEEDS[0]))}
    ]
    for seed in SEEDS:
        batch = random_batch(seed) if torch.distributed.get_rank() == 0 else None
        metrics = trainer.step(broadcast(batch, torch.device("cpu"))).metrics
        gradients, weights = gradients_of(policy), dict(policy.export())
        steps.append(
            {"loss": metrics["loss"], "norm": metrics["grad_norm"], "gradients": gradients, "weights": weights}
        )
    return steps


@pytest.mark.parametrize(
    ("world", "family", "tensor"),
    [(1, "qwen3", 1), (2, "qwen3", 1), (2, "mistral", 1), (2, "qwen3", 2), (4, "qwen3", 2)],
)
def test_slices_of_the_transformers_backend_step_whole_matrices(
    world: int, family: str, tensor: int, model_dir: Callable[..., Path], in_fp32: None
) -> None:
    results = run_ranks(world, _train_transformers, model_dir(family), SETTINGS["grpo"], tensor)[0]
    compare(results, family, False, "grpo", "muon")


def _begin(backend: str, model_dir: Path, parallel: Parallel, precision: str, root: Path) -> Any:
    """Two steps, a checkpoint, one more."""
    policy = _make(backend, model_dir, parallel, precision)
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {})
    trainer.step(random_batch(3))
    return dict(policy.export())


def _go_on(backend: str, model_dir: Path, parallel: Parallel, precision: str, root: Path, **others: Any) -> Any:
    policy = _make(backend, model_dir, parallel, precision, **others)
    policy.load(checkpoints.path_of(root, 2))
    make_trainer(recipe_of(), policy).step(random_batch(3))
    return dict(policy.export())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("backend", "there", "here"),
    [
        ("megatron", Case(2, Parallel(tensor=2)), Case(2, Parallel(pipeline=2))),
        ("transformers", Case(2), Case(1)),
    ],
    ids=["megatron", "transformers"],
)
def test_a_run_goes_on_exactly_and_under_another_layout(
    backend: str, there: Case, here: Case, precision: str, model_dir: Callable[..., Path], in_fp32: None, tmp_path: Path
) -> None:
    arguments = (precision, tmp_path)
    straight = run_ranks(there.world, _begin, backend, model_dir("qwen3"), there.parallel, *arguments)[0]
    same = run_ranks(there.world, _go_on, backend, model_dir("qwen3"), there.parallel, *arguments)[0]
    other = run_ranks(here.world, _go_on, backend, model_dir("qwen3"), here.parallel, *arguments)[0]
    for name, tensor in straight.items():
        assert torch.equal(same[name], tensor), f"{name} differs after going on"
        tolerance = 1e-4 if precision == "float32" else 2e-2
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=tolerance, msg=name)


def _resume_as_adamw(backend: str, model_dir: Path, root: Path) -> None:
    _go_on(backend, model_dir, Parallel(), "float32", root, optimizer={"name": "adamw"})


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_optimizers_state_is_refused_by_name(
    backend: str, model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    run_ranks(1, _begin, backend, model_dir("qwen3"), Parallel(), "float32", tmp_path)
    with pytest.raises(RankFailed, match=r"AnotherModel.*optimizer 'muon' \(here None\)"):
        run_ranks(1, _resume_as_adamw, backend, model_dir("qwen3"), tmp_path)


def _adapt(backend: str, model_dir: Path) -> None:
    _make(backend, model_dir, Parallel(), lora=Lora())


@pytest.mark.parametrize("backend", BACKENDS)
def test_adapters_are_refused_by_name(backend: str, model_dir: Callable[..., Path]) -> None:
    with pytest.raises(RankFailed, match=r"optimizer\.name = muon .* use adamw"):
        run_ranks(1, _adapt, backend, model_dir("qwen3"))


def _skipped(backend: str, model_dir: Path) -> Any:
    policy = _make(backend, model_dir, Parallel())
    trainer = make_trainer(recipe_of(), policy)
    trainer.step(random_batch(1))
    before = dict(policy.export()), {k: v.clone() for k, v in _momentum(policy).items()}
    batch = random_batch(2)
    batch.signal[:] = float("inf")
    outcome = trainer.step(batch)
    same = all(torch.equal(v, before[1][k]) for k, v in _momentum(policy).items())
    return outcome.metrics, before[0], dict(policy.export()), same


def _momentum(policy: Any) -> dict[str, torch.Tensor]:
    pieces = policy.optimizer.state()["pieces"]
    return {name: piece["momentum"] for name, piece in pieces.items() if "momentum" in piece}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_is_not_finite_leaves_weights_and_momentum_alone(
    backend: str, model_dir: Callable[..., Path]
) -> None:
    _, before, after, same = run_ranks(1, _skipped, backend, model_dir("qwen3"))[0]
    assert same and all(torch.equal(before[name], after[name]) for name in before)
