"""Adapters train under every layout as they do in one process written out by hand, and the base does not move."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.common.adapters import TARGETS
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.resume import load_newest
from services.learner.testing import one_process_lora as lora_testing
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.one_process_lora import LORA, OPTIMIZER, SEED, SEEDS, reference
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model, tiny_model


@dataclass(frozen=True)
class Case:
    world: int
    parallel: Parallel = field(default_factory=Parallel)
    recompute: Any = "none"


LAYOUTS = {
    "one": Case(1),
    "one-recompute": Case(1, recompute="full"),
    "tp2": Case(2, Parallel(tensor=2)),
    "tp2-sp-recompute": Case(2, Parallel(tensor=2, sequence_parallel=True), "full"),
    "pp2": Case(2, Parallel(pipeline=2)),
    "pp2-interleaved": Case(2, Parallel(pipeline=2, virtual_stages=2)),
    "cp2": Case(2, Parallel(context=2)),
    "dp2": Case(2),
    "dp2-overlap": Case(2, Parallel(overlap=True, overlap_bucket=2_000)),
    "tp4-sp": Case(4, Parallel(tensor=4, sequence_parallel=True)),
}


def make(model_dir: Path, case: Case, lora: Lora | None = LORA) -> MegatronPolicy:
    return MegatronPolicy.create(
        spec_of(
            model_dir,
            case.parallel,
            Optimizer(**OPTIMIZER),
            micro_batch_tokens=80,
            head_chunk=11,
            recompute=case.recompute,
            seed=SEED,
            lora=lora,
        )
    )


def _train(model_dir: Path, case: Case) -> Any:
    policy = make(model_dir, case)
    before = dict(policy.export())
    trainer = make_trainer(recipe_of("sft"), policy)
    metrics = [trainer.step(random_batch(seed, "none")).metrics for seed in SEEDS]
    adapters, after = dict(policy.adapters()), dict(policy.export())
    lora_testing.check_adapters(before, adapters, after)
    return before, [(m["loss"], m["grad_norm"]) for m in metrics], after


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    @functools.cache
    def save(family: str, tied: bool) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)

    return save


@pytest.mark.parametrize(
    ("name", "family", "tied"),
    [*((name, "qwen3", False) for name in LAYOUTS), ("tp2", "qwen2", True), ("pp2", "qwen2", True)],
)
def test_every_layout_trains_adapters_as_one_process_does(
    name: str, family: str, tied: bool, model_dir: Callable[[str, bool], Path]
) -> None:
    before, steps, after = run_ranks(LAYOUTS[name].world, _train, model_dir(family, tied), LAYOUTS[name])[0]
    expected, merged = reference(family, tied)
    for weight, tensor in tiny_model(family, tied).named_parameters():
        assert torch.equal(before[weight], tensor), "adapters change nothing before the first step"
    for ours, theirs in zip(steps, expected, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
        assert ours[1] == pytest.approx(theirs[1], rel=5e-5)
    assert after.keys() == before.keys(), "exports have Hugging Face's names only"
    for weight, tensor in merged.items():
        torch.testing.assert_close(after[weight], tensor, rtol=0, atol=1e-4, msg=lambda m, w=weight: f"{w}: {m}")
    unadapted = [name for name in before if "embed" in name or "norm" in name]
    assert unadapted and all(torch.equal(before[name], after[name]) for name in unadapted)


def _reference_is_the_base(model_dir: Path) -> Any:
    policy = make(model_dir, LAYOUTS["one"])
    first = policy.logprobs(random_batch(9))
    make_trainer(recipe_of("sft"), policy).step(random_batch(1, "none"))
    return first, policy.logprobs(random_batch(9)), policy.reference_logprobs(random_batch(9))


def test_the_base_is_the_reference_without_a_copy(model_dir: Callable[[str, bool], Path]) -> None:
    first, later, base = run_ranks(1, _reference_is_the_base, model_dir("qwen3", False))[0]
    assert torch.equal(base, first) and not torch.equal(later, first)


def _save_and_go_on(model_dir: Path, root: Path, case: Case) -> Any:
    policy = make(model_dir, case)
    trainer = make_trainer(recipe_of("sft"), policy)
    trainer.step(random_batch(1, "none"))
    checkpoints.write(checkpoints.path_of(root, 1), policy.snapshot(), {})
    saved = dict(policy.export())
    trainer.step(random_batch(2, "none"))
    return saved, dict(policy.export())


def _resume(model_dir: Path, root: Path, case: Case, lora: Lora | None = LORA) -> Any:
    policy = make(model_dir, case, lora)
    load_newest(root, policy.load)
    loaded = dict(policy.export())
    make_trainer(recipe_of("sft"), policy).step(random_batch(2, "none"))
    return loaded, dict(policy.export())


@pytest.mark.parametrize(("source", "target"), [("one", "one"), ("tp2", "pp2"), ("dp2", "tp2")])
def test_adapters_and_their_moments_go_on_under_any_layout(
    source: str, target: str, model_dir: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    there, here = LAYOUTS[source], LAYOUTS[target]
    directory = model_dir("qwen3", False)
    saved, expected = run_ranks(there.world, _save_and_go_on, directory, tmp_path, there)[0]
    loaded, got = run_ranks(here.world, _resume, directory, tmp_path, here)[0]
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], saved[name], rtol=0, atol=0 if source == target else 1e-6)
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0 if source == target else 1e-5)


def test_a_checkpoint_with_adapters_is_not_one_without(model_dir: Callable[[str, bool], Path], tmp_path: Path) -> None:
    directory = model_dir("qwen3", False)
    run_ranks(1, _save_and_go_on, directory, tmp_path, LAYOUTS["one"])
    with pytest.raises(RankFailed, match="AnotherModel.*lora .*here None"):
        run_ranks(1, _resume, directory, tmp_path, LAYOUTS["one"], None)


def test_an_unknown_target_is_no_recipe_and_every_known_one_has_a_layer() -> None:
    with pytest.raises(ValidationError, match="Input should be 'qkv', 'output', 'gate_up' or 'down'"):
        Lora(targets=("q_proj",))  # type: ignore[arg-type]
    assert set(Lora().targets) == set(TARGETS)
