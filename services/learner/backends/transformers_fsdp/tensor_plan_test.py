"""Tensor ranks of the transformers backend: exact resume, other layouts, refusals, and what each guard is for. That it
computes what one process does: transformers_parity_test."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.backends.transformers_fsdp.tensor_plan import TensorPlan
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.resume import load_newest
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def make(
    model_dir: Path, tensor: int, lora: Lora | None = None, precision: Any = "float32", **parallel: Any
) -> TransformersPolicy:
    return TransformersPolicy.create(
        spec_of(
            model_dir,
            Parallel(tensor=tensor, **parallel),
            Optimizer(learning_rate=1e-2, weight_decay=0.1),
            precision,
            micro_batch_tokens=80,
            seed=3,
            lora=lora,
        )
    )


def _begin(model_dir: Path, root: Path, tensor: int, precision: str) -> Any:
    """A step, a checkpoint, another step."""
    policy = make(model_dir, tensor, precision=precision)
    trainer = make_trainer(recipe_of(), policy)
    trainer.step(random_batch(1))
    checkpoints.write(checkpoints.path_of(root, 1), policy.snapshot(), {"cursor": 812})
    saved = dict(policy.export())
    return saved, trainer.step(random_batch(2)).metrics, dict(policy.export())


def _go_on(model_dir: Path, root: Path, tensor: int, precision: str) -> Any:
    policy = make(model_dir, tensor, precision=precision)
    assert load_newest(root, policy.load) == (1, {"cursor": 812})
    loaded = dict(policy.export())
    return loaded, make_trainer(recipe_of(), policy).step(random_batch(2)).metrics, dict(policy.export())


@pytest.mark.parametrize(
    ("source", "target", "precision"),
    [
        ((2, 2), (2, 2), "float32"),
        ((2, 2), (2, 2), "bfloat16"),
        ((4, 2), (4, 2), "float32"),
        ((2, 2), (1, 1), "float32"),
        ((4, 2), (2, 1), "float32"),
        ((2, 1), (4, 2), "float32"),
    ],
    ids=["same", "bfloat16", "data and tensor", "join", "join both", "cut"],
)
def test_training_goes_on_under_the_same_layout_bit_for_bit_and_under_any_other(
    source: tuple[int, int], target: tuple[int, int], precision: str, model_dir: Path, tmp_path: Path
) -> None:
    """(ranks, tensor ranks among them)."""
    saved, expected, after = run_ranks(source[0], _begin, model_dir, tmp_path, source[1], precision)[0]
    loaded, metrics, got = run_ranks(target[0], _go_on, model_dir, tmp_path, target[1], precision)[0]
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)
    if source == target:
        assert metrics == expected and all(torch.equal(got[name], after[name]) for name in after)
    for name, tensor in after.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-4, msg=name)
    assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def _stepped(model_dir: Path, broken: str) -> Any:
    patch = pytest.MonkeyPatch()
    if broken == "add_up":
        patch.setattr(TensorPlan, "add_up", lambda self, parameters: None)
    if broken == "copies":
        patch.setattr(TensorPlan, "copies", lambda self, name: 1)
    policy = make(model_dir, 2)
    metrics = make_trainer(recipe_of("sft"), policy).step(random_batch(1, "none")).metrics
    return metrics["grad_norm"], dict(policy.export())


def test_gradients_of_head_norms_are_summed_and_copies_counted_once(model_dir: Path) -> None:
    """Without either guard the step is another one, and nothing says so."""
    norm, weights = run_ranks(2, _stepped, model_dir, "")[0]
    for broken in ("add_up", "copies"):
        wrong, other = run_ranks(2, _stepped, model_dir, broken)[0]
        assert wrong != pytest.approx(norm, rel=1e-6), broken
        assert any(not torch.allclose(other[name], weights[name], rtol=0, atol=1e-6) for name in weights), broken


def _cut_wrongly(model_dir: Path) -> None:
    """As if a plan did not say all: the MLP's gate is left whole, so halves are multiplied with what is not theirs."""
    own = TensorPlan.cut

    def cut(self: TensorPlan, block: torch.nn.Module) -> None:
        for style in self._styles.values():
            if type(style).__name__ == "RowwiseParallel":
                style.output_layouts = (torch.distributed.tensor.Partial(),)
        own(self, block)

    pytest.MonkeyPatch().setattr(TensorPlan, "cut", cut)
    make(model_dir, 2)


def test_a_plan_that_does_not_say_all_is_found_out_before_the_first_step(model_dir: Path) -> None:
    with pytest.raises(RankFailed, match="Qwen3ForCausalLM: cut over tensor ranks by its plan it computes something"):
        run_ranks(2, _cut_wrongly, model_dir)


@pytest.mark.parametrize(
    ("family", "world", "tensor", "more", "words"),
    [
        ("gpt2", 2, 2, {}, "GPT2LMHeadModel cannot be cut so: it carries no plan for its layers; use 1, or backend"),
        ("qwen3", 4, 4, {}, "parallel.tensor = 4: Qwen3ForCausalLM cannot be cut so: its num_key_value_heads is 2"),
        ("qwen3", 2, 3, {}, "parallel.tensor = 3 must divide the number of learner ranks, 2"),
        ("qwen3", 2, 2, {"lora": Lora(rank=2)}, "no adapters on matrices that are cut; use 1"),
        ("qwen3", 2, 2, {"pipeline": 2}, "parallel.pipeline = 2: backend transformers has data and tensor ranks alone"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(
    family: str, world: int, tensor: int, more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RankFailed, match=words):
        run_ranks(world, _make_with, save_tiny_model(tmp_path, family, family == "gpt2"), tensor, more)


def _make_with(model_dir: Path, tensor: int, more: dict[str, Any]) -> None:
    make(model_dir, tensor, **more)
