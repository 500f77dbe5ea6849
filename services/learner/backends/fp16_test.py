"""float16 with a loss scale: gradients are those of fp32 as far as float16 has them, an overflow costs a step and
nothing else, and a resumed run is bit-identical, on either backend."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.optim.loss_scale import GROWTH_INTERVAL, INITIAL, LEAST, LossScale
from services.learner.backends.testing.gradients import gradients_of
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.batch import broadcast
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.one_process import OPTIMIZER, SEEDS, reference
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}
TP2 = Parallel(tensor=2)
WHERE = {
    "one": ("megatron", 1, Parallel()),
    "tp2": ("megatron", 2, TP2),
    "pp2": ("megatron", 2, Parallel(pipeline=2)),
    "dp2": ("megatron", 2, Parallel()),
    "transformers": ("transformers", 1, Parallel()),
    "transformers-2": ("transformers", 2, Parallel()),
    "transformers-tp2": ("transformers", 2, TP2),
}
SFT = recipe_of("sft")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def make(family: str) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family)

    return make


def _make(backend: str, model_dir: Path, parallel: Parallel, **optimizer: Any) -> Any:
    return BACKENDS[backend].create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(**{**OPTIMIZER, **optimizer}),
            "float16",
            micro_batch_tokens=80,
            head_chunk=11,
            seed=1,
        )
    )


def _train(backend: str, model_dir: Path, parallel: Parallel) -> Any:
    policy = _make(backend, model_dir, parallel)
    trainer, steps = make_trainer(SFT, policy), []
    for seed in SEEDS:
        batch = random_batch(seed, "none") if torch.distributed.get_rank() == 0 else None
        metrics = trainer.step(broadcast(batch, torch.device("cpu"))).metrics
        steps.append((metrics["loss"], metrics["grad_norm"], gradients_of(policy), dict(policy.export())))
    return steps


def _far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("where", WHERE)
def test_steps_are_those_of_fp32_as_far_as_float16_goes(where: str, model_dir: Callable[[str], Path]) -> None:
    backend, world, parallel = WHERE[where]
    results = run_ranks(world, _train, backend, model_dir("qwen3"), parallel)[0]
    expected = zip((1e-2, 5e-2), reference("qwen3", False, "sft"), strict=True)
    for (loss, norm, gradients, weights), (tolerance, theirs) in zip(results, expected, strict=True):
        assert loss == pytest.approx(theirs["loss"], abs=5e-3), "the loss that is reported is not scaled"
        assert norm == pytest.approx(theirs["norm"], rel=1e-2), "nor is the norm"
        for name, tensor in theirs["gradients"].items() if where != "dp2" else ():
            assert _far(gradients[name], tensor) < tolerance, name
        for name, tensor in theirs["weights"].items():
            assert weights[name].dtype == torch.float16
            assert _far(weights[name], tensor) < 1e-2, name


def _overflow(backend: str, model_dir: Path, parallel: Parallel) -> Any:
    """Steps with a scale that is far too large until one is taken; the same step with the scale that was found."""
    policy, batch = _make(backend, model_dir, parallel), random_batch(1, "none")
    policy.optimizer.loss_scale.scale = first = 2.0**30
    trainer, before = make_trainer(SFT, policy), dict(policy.export())
    while policy.optimizer.steps == policy.optimizer.skipped:
        assert all(torch.equal(before[name], tensor) for name, tensor in policy.export()), "a skipped step changed it"
        assert policy.optimizer.scale == first / 2**policy.optimizer.skipped
        trainer.step(batch)
    while policy.optimizer.steps < policy.optimizer.skipped + 2:  # what one batch allows may be too much for the next
        trainer.step(random_batch(2, "none"))
    assert policy.optimizer.skipped_in_a_row == 0
    found, skipped = policy.optimizer.scale, policy.optimizer.skipped
    other = _make(backend, model_dir, parallel) if backend == "transformers" else None
    if other is not None:
        other.optimizer.loss_scale.scale = found
        again = make_trainer(SFT, other)
        for seed in (1, 2):
            again.step(random_batch(seed, "none"))
    return skipped, dict(policy.export()), None if other is None else dict(other.export())


@pytest.mark.parametrize("where", ["tp2", "pp2", "dp2", "transformers-2"])
def test_an_overflow_costs_a_step_and_nothing_else(where: str, model_dir: Callable[[str], Path]) -> None:
    backend, world, parallel = WHERE[where]
    skipped, after, direct = run_ranks(world, _overflow, backend, model_dir("qwen3"), parallel)[0]
    assert skipped > Optimizer().max_skipped > 0, "an overflow that the scale helps is none of max_skipped"
    for name, tensor in (direct or {}).items():
        assert torch.equal(after[name], tensor), name
    for name, tensor in reference("qwen3", False, "sft")[-1]["weights"].items():
        assert _far(after[name], tensor) < 1e-2, name


def _diverge(model_dir: Path) -> None:
    policy = _make("transformers", model_dir, Parallel(), max_skipped=3)
    trainer = make_trainer(recipe_of(), policy)
    batch = random_batch(1)
    batch.signal[:] = float("inf")
    policy.optimizer.loss_scale.scale = 4.0
    for _ in range(5):
        trainer.step(batch)
    raise AssertionError("five steps: two that lowered the scale, three that nothing helps")


def test_a_gradient_that_no_scale_helps_ends_the_run(model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(RankFailed, match="NonFiniteGradients: 3 optimizer steps in a row"):
        run_ranks(1, _diverge, model_dir("qwen3"))


def _begin(backend: str, model_dir: Path, parallel: Parallel, root: Path) -> Any:
    policy = _make(backend, model_dir, parallel)
    policy.optimizer.loss_scale.good = GROWTH_INTERVAL - 3  # the scale doubles after the step behind the checkpoint
    trainer = make_trainer(SFT, policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed, "none"))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {})
    trainer.step(random_batch(3, "none"))
    trainer.step(random_batch(4, "none"))
    return policy.optimizer.counters(), dict(policy.export())


def _go_on(backend: str, model_dir: Path, parallel: Parallel, root: Path) -> Any:
    policy = _make(backend, model_dir, parallel)
    policy.load(checkpoints.path_of(root, 2))
    trainer = make_trainer(SFT, policy)
    trainer.step(random_batch(3, "none"))
    trainer.step(random_batch(4, "none"))
    return policy.optimizer.counters(), dict(policy.export())


@pytest.mark.parametrize(("where", "other"), [("tp2", "one"), ("dp2", "pp2"), ("transformers-2", "transformers")])
def test_a_resumed_run_is_bit_identical_and_another_layout_has_its_scale(
    where: str, other: str, model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    backend, world, parallel = WHERE[where]
    counters, straight = run_ranks(world, _begin, backend, model_dir("qwen3"), parallel, tmp_path)[0]
    assert counters["loss_scale"] == {"scale": 2 * INITIAL, "good": 1}
    again, resumed = run_ranks(world, _go_on, backend, model_dir("qwen3"), parallel, tmp_path)[0]
    assert again == counters
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    _, world, parallel = WHERE[other]
    assert run_ranks(world, _go_on, backend, model_dir("qwen3"), parallel, tmp_path)[0][0] == counters


def test_the_scale_stays_within_its_bounds() -> None:
    scale = LossScale()
    for _ in range(100):
        scale.lower()
    assert scale.scale == LEAST and not scale.lower()
    for _ in range(100 * GROWTH_INTERVAL):
        scale.grow()
    assert scale.scale == 2.0**24
