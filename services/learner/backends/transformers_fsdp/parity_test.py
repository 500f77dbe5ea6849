"""The transformers backend on any number of ranks against plain transformers in one process, and against Megatron."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes import Recipe
from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import algorithm_of, make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.gradients import gradients_of
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import broadcast
from services.learner.testing import one_process_lora as lora_testing
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.one_process import OPTIMIZER, SEEDS, SETTINGS, compare
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

Backend = type[MegatronPolicy] | type[TransformersPolicy]


def _train(
    model_dir: Path, recipe: Recipe, recompute: str, backend: Backend = TransformersPolicy, tensor: int = 1
) -> Any:
    policy = backend.create(
        spec_of(
            model_dir,
            Parallel(tensor=tensor),
            Optimizer(**OPTIMIZER),
            micro_batch_tokens=80,
            head_chunk=11,
            recompute=recompute,
            seed=1,
            keep_reference=recipe.compares_with_reference,
        )
    )
    trainer = make_trainer(recipe, policy)
    steps: list[dict[str, Any]] = [
        {"weights": dict(policy.export()), "logprobs": policy.logprobs(random_batch(SEEDS[0]))}
    ]
    for seed in SEEDS:
        kind = algorithm_of(recipe).signal
        batch = random_batch(seed, kind) if torch.distributed.get_rank() == 0 else None
        metrics = trainer.step(broadcast(batch, torch.device("cpu"))).metrics
        gradients = gradients_of(policy)
        weights = dict(policy.export())
        steps.append(
            {"loss": metrics["loss"], "norm": metrics["grad_norm"], "gradients": gradients, "weights": weights}
        )
    return steps


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    @functools.cache
    def make(family: str, tied: bool) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)

    return make


@pytest.mark.parametrize(
    ("family", "tied", "world", "recompute"),
    [
        ("qwen3", False, 1, "none"),
        ("qwen3", False, 2, "none"),
        ("qwen3", False, 4, "full"),
        ("qwen3", True, 2, "none"),
        ("qwen2", True, 1, "full"),
        ("qwen3", False, 2, "selective"),
        ("gpt2", True, 2, "selective"),
        ("llama", False, 2, "none"),
        # What Megatron does not load here:
        ("mistral", False, 2, "none"),
        ("gemma", True, 2, "full"),
        ("gpt2", True, 2, "none"),
    ],
)
def test_any_number_of_ranks_trains_as_one_process_does(
    family: str, tied: bool, world: int, recompute: str, model_dir: Callable[[str, bool], Path]
) -> None:
    results = run_ranks(world, _train, model_dir(family, tied), SETTINGS["grpo"], recompute)[0]
    compare(results, family, tied, "grpo")


@pytest.mark.parametrize(
    ("family", "tied", "world", "recompute"),
    [
        ("qwen3", False, 2, "none"),  # norms of heads: each tensor rank sees its own
        ("qwen3", True, 4, "full"),
        ("qwen2", True, 2, "none"),  # biases
        ("llama", False, 2, "selective"),
        ("mistral", False, 4, "none"),
        ("gemma", True, 2, "none"),
    ],
)
def test_matrices_cut_over_two_ranks_train_as_one_process_does(
    family: str, tied: bool, world: int, recompute: str, model_dir: Callable[[str, bool], Path]
) -> None:
    arguments = (model_dir(family, tied), SETTINGS["grpo"], recompute, TransformersPolicy, 2)
    for results in run_ranks(world, _train, *arguments)[:1]:
        compare(results, family, tied, "grpo")


@pytest.mark.parametrize("objective", ["gspo", "sft"])
def test_other_objectives(objective: str, model_dir: Callable[[str, bool], Path]) -> None:
    results = run_ranks(2, _train, model_dir("qwen3", False), SETTINGS[objective], "none")[0]
    compare(results, "qwen3", False, objective)


def test_the_backends_take_the_same_steps(model_dir: Callable[[str, bool], Path]) -> None:
    arguments = (model_dir("qwen3", False), SETTINGS["grpo"], "none")
    ours = run_ranks(2, _train, *arguments)[0]
    megatron = run_ranks(1, _train, *arguments, MegatronPolicy)[0]
    for a, b in zip(ours[1:], megatron[1:], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-5)
        assert a["weights"].keys() == b["weights"].keys()
        for name, tensor in b["weights"].items():
            torch.testing.assert_close(a["weights"][name], tensor, rtol=0, atol=1e-4, msg=name)


def _adapt(model_dir: Path, recompute: str) -> Any:
    policy = TransformersPolicy.create(
        spec_of(
            model_dir,
            Parallel(),
            Optimizer(**lora_testing.OPTIMIZER),
            micro_batch_tokens=80,
            head_chunk=11,
            recompute=recompute,
            seed=lora_testing.SEED,
            lora=lora_testing.LORA,
        )
    )
    before, first = dict(policy.export()), policy.logprobs(random_batch(9))
    trainer = make_trainer(recipe_of("sft"), policy)
    metrics = [trainer.step(random_batch(seed, "none")).metrics for seed in lora_testing.SEEDS]
    assert torch.equal(policy.reference_logprobs(random_batch(9)), first), "the base is the reference"
    assert not torch.equal(policy.logprobs(random_batch(9)), first)
    after, adapters = dict(policy.export()), dict(policy.adapters())
    lora_testing.check_adapters(before, adapters, after)
    return before, [(m["loss"], m["grad_norm"]) for m in metrics], after


@pytest.mark.parametrize(("world", "recompute"), [(1, "none"), (2, "full"), (2, "selective")])
@pytest.mark.parametrize(("family", "tied"), [("qwen3", False), ("llama", True)])
def test_adapters_train_as_in_one_process_written_out(
    family: str, tied: bool, world: int, recompute: str, model_dir: Callable[[str, bool], Path]
) -> None:
    steps, merged = lora_testing.reference(family, tied)
    before, metrics, after = run_ranks(world, _adapt, model_dir(family, tied), recompute)[0]
    for ours, theirs in zip(metrics, steps, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
        assert ours[1] == pytest.approx(theirs[1], rel=5e-5)
    assert after.keys() == before.keys() == merged.keys(), "exports have Hugging Face's names only"
    for name, tensor in merged.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-4, msg=name)
    unadapted = [name for name in before if "embed" in name or "norm" in name]
    assert unadapted and all(torch.equal(before[name], after[name]) for name in unadapted)


def _with_target(model_dir: Path) -> None:
    TransformersPolicy.create(spec_of(model_dir, Parallel(), Optimizer(), seed=0, lora=Lora(targets=("qkv",))))


def test_a_layer_that_cannot_be_adapted_is_refused_by_name(model_dir: Callable[[str, bool], Path]) -> None:
    with pytest.raises(AssertionError, match="lora.targets: qkv is no linear layer of GPT2Block; there are: none"):
        run_ranks(1, _with_target, model_dir("gpt2", True))
