"""A mixture of experts keeps every promise of a dense model: resume, other layouts, recomputation, adapters, refusals.

Its numbers under every layout are in `mixture_parity_test`.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Lora, Optimizer, Parallel
from penstock.telemetry import steps
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.resume import load_newest
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LAYOUTS: dict[str, tuple[int, Parallel, bool]] = {
    "one": (1, Parallel(), True),
    "dp2": (2, Parallel(), True),
    "ep2": (2, Parallel(expert=2), True),
    "ep4-replicated": (4, Parallel(expert=4), False),
    "ep2-dp4": (4, Parallel(expert=2), True),
    "tp2-sp-ep2": (2, Parallel(tensor=2, sequence_parallel=True, expert=2), True),
    "pp2-ep2": (4, Parallel(pipeline=2, expert=2), True),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3_moe")


def make(
    model_dir: Path,
    layout: str,
    precision: Any = "float32",
    lora: Lora | None = None,
    recompute: Any = "none",
) -> MegatronPolicy:
    _, parallel, distributed = LAYOUTS[layout]
    return MegatronPolicy.create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(learning_rate=1e-2, weight_decay=0.1, epsilon=1e-5),
            precision,
            shard_optimizer=distributed,
            micro_batch_tokens=80,
            recompute=recompute,
            seed=3,
            lora=lora,
        )
    )


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _begin(model_dir: Path, root: Path, layout: str, precision: str) -> Any:
    """Two steps, a checkpoint, two more."""
    policy = make(model_dir, layout, precision)
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {"cursor": 812})
    saved = dict(policy.export())
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return saved, metrics, dict(policy.export())


def _go_on(model_dir: Path, root: Path, layout: str, precision: str) -> Any:
    policy = make(model_dir, layout, precision)
    assert load_newest(root, policy.load) == (2, {"cursor": 812})
    loaded = dict(policy.export())
    trainer = make_trainer(recipe_of(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return loaded, metrics, dict(policy.export())


@pytest.fixture(scope="module")
def begun(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """(its checkpoints, what the uninterrupted run came to), once per layout."""

    @functools.cache
    def begin(layout: str, precision: str = "float32") -> Any:
        root = tmp_path_factory.mktemp("checkpoints")
        return root, run_ranks(LAYOUTS[layout][0], _begin, model_dir, root, layout, precision)[0]

    return begin


@pytest.mark.parametrize(
    ("layout", "precision"), [("ep2", "float32"), ("tp2-sp-ep2", "bfloat16"), ("pp2-ep2", "float32")]
)
def test_resume_is_bit_identical(layout: str, precision: str, model_dir: Path, begun: Callable[..., Any]) -> None:
    root, (saved, expected, after) = begun(layout, precision)
    loaded, metrics, got = run_ranks(LAYOUTS[layout][0], _go_on, model_dir, root, layout, precision)[0]
    assert equal(loaded, saved) and metrics == expected
    assert equal(got, after) and not equal(got, saved)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("ep2", "one"),
        ("dp2", "ep2"),
        ("ep2", "tp2-sp-ep2"),
        ("tp2-sp-ep2", "pp2-ep2"),
        ("pp2-ep2", "ep4-replicated"),
        ("ep4-replicated", "ep2-dp4"),
        ("ep2-dp4", "dp2"),
    ],
)
def test_training_goes_on_under_another_layout(
    source: str, target: str, model_dir: Path, begun: Callable[..., Any]
) -> None:
    root, (saved, expected, after) = begun(source)
    loaded, metrics, got = run_ranks(LAYOUTS[target][0], _go_on, model_dir, root, target, "float32")[0]
    assert equal(loaded, saved), "a weight changed in loading"
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    for name, tensor in after.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-4, msg=name)


def test_bf16_main_weights_of_experts_go_along(model_dir: Path, begun: Callable[..., Any]) -> None:
    root, (saved, _, _) = begun("tp2-sp-ep2", "bfloat16")
    assert equal(run_ranks(2, _go_on, model_dir, root, "dp2", "bfloat16")[0][0], saved)


def _train(model_dir: Path, layout: str, recompute: str, lora: Lora | None) -> Any:
    policy = make(model_dir, layout, recompute=recompute, lora=lora)
    trainer = make_trainer(recipe_of(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (1, 2)]
    return [(m["loss"], m["grad_norm"]) for m in metrics], dict(policy.export())


@pytest.mark.parametrize("layout", ["ep2", "tp2-sp-ep2"])
def test_recomputing_changes_no_bit(layout: str, model_dir: Path) -> None:
    metrics, weights = run_ranks(2, _train, model_dir, layout, "none", None)[0]
    again, recomputed = run_ranks(2, _train, model_dir, layout, "full", None)[0]
    assert again == metrics and equal(recomputed, weights)


def test_attention_has_adapters_and_experts_stay_as_they_are(model_dir: Path) -> None:
    lora = Lora(rank=4, targets=("qkv", "output"))
    alone, expected = run_ranks(1, _train, model_dir, "one", "none", lora)[0]
    metrics, got = run_ranks(2, _train, model_dir, "ep2", "none", lora)[0]
    for ours, theirs in zip(metrics, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-4, msg=name)
    untouched = dict(run_ranks(1, _exported, model_dir)[0])
    assert all(torch.equal(got[name], untouched[name]) for name in got if ".experts." in name or ".gate." in name)


def _exported(model_dir: Path) -> Any:
    return list(make(model_dir, "one").export())


def test_experts_have_no_adapters(model_dir: Path) -> None:
    with pytest.raises(RankFailed, match="lora.targets: gate_up is an expert's, and experts have no adapters; use qkv"):
        run_ranks(1, make, model_dir, "one", "float32", Lora(targets=("qkv", "gate_up")))


def _experts(model_dir: Path, layout: str, recompute: str) -> dict[str, float]:
    policy = make(model_dir, layout, recompute=recompute)
    metrics = make_trainer(recipe_of(), policy).step(random_batch(1)).metrics
    return {name: value for name, value in metrics.items() if name.startswith("rl.experts.")}


def test_experts_are_counted_alike_under_every_layout_and_recomputation(model_dir: Path) -> None:
    """Each token of a micro-batch once; what fills up a pack counts too, so that layouts differ a little."""
    whole = run_ranks(1, _experts, model_dir, "one", "none")[0]
    assert set(whole) == {steps.EXPERTS_ENTROPY, steps.EXPERTS_LARGEST, steps.EXPERTS_DEAD}
    assert 0 < whole[steps.EXPERTS_ENTROPY] <= 1
    assert run_ranks(1, _experts, model_dir, "one", "full")[0] == whole
    for layout in ("dp2", "pp2-ep2"):
        found = run_ranks(LAYOUTS[layout][0], _experts, model_dir, layout, "none")
        assert all(each == found[0] for each in found), "equal on every rank"
        assert found[0] == pytest.approx(whole, abs=0.03)


def _none_live(model_dir: Path) -> dict[str, float]:
    policy, batch = make(model_dir, "one"), random_batch(5)
    trainer = make_trainer(recipe_of(), policy)
    return trainer.step(dataclasses.replace(batch, signal=torch.zeros_like(batch.signal))).metrics


def test_a_step_without_a_live_sample_says_nothing_of_experts(model_dir: Path) -> None:
    metrics = run_ranks(1, _none_live, model_dir)[0]
    assert metrics["rl.groups.dead"] == 1.0
    assert not [name for name in metrics if name.startswith("rl.experts.")]
