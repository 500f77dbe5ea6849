"""A checkpoint goes on under any layout as it would have gone on under its own; nothing is lost on the way."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.resume import load_newest
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

WEIGHTS, LOSS = 1e-5, 1e-6
"""Largest differences after two more steps of rate 1e-2, fp32: what another order of summation makes."""
WEIGHTS_BF16 = 2e-2
RARE = 1e-3  # share of bfloat16 weights whose gradient is so near 0 that Adam goes either way

LAYOUTS: dict[str, tuple[int, Parallel, bool]] = {
    "one": (1, Parallel(), True),
    "one-replicated": (1, Parallel(), False),
    "tp2": (2, Parallel(tensor=2), True),
    "tp2-sp": (2, Parallel(tensor=2, sequence_parallel=True), True),
    "pp2": (2, Parallel(pipeline=2), True),
    "pp2-interleaved": (2, Parallel(pipeline=2, virtual_stages=2), True),
    "cp2": (2, Parallel(context=2), True),
    "dp2": (2, Parallel(), True),
    "dp2-replicated": (2, Parallel(), False),
    "dp4": (4, Parallel(), True),
    "tp2-pp2": (4, Parallel(tensor=2, pipeline=2), True),
    "tp4-sp": (4, Parallel(tensor=4, sequence_parallel=True), True),  # fewer KV heads than tensor ranks
}


def _make(model_dir: Path, layout: str, precision: str = "float32") -> MegatronPolicy:
    _, parallel, distributed = LAYOUTS[layout]
    optimizer = Optimizer(learning_rate=1e-2, weight_decay=0.1, epsilon=1e-5, schedule="cosine", warmup_steps=2)
    return MegatronPolicy.create(
        spec_of(model_dir, parallel, optimizer, precision, micro_batch_tokens=80, seed=3, shard_optimizer=distributed)
    )


def _begin(model_dir: Path, root: Path, layout: str, precision: str) -> Any:
    """Two steps, a checkpoint, two more."""
    policy = _make(model_dir, layout, precision)
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {"log_cursor": 812})
    saved = dict(policy.export())
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return saved, dict(policy.export()), metrics


def _go_on(model_dir: Path, root: Path, layout: str, precision: str, again: Path | None = None) -> Any:
    policy = _make(model_dir, layout, precision)
    restored = load_newest(root, policy.load)
    assert restored == (2, {"log_cursor": 812})
    loaded = dict(policy.export())
    if again is not None:
        checkpoints.write(checkpoints.path_of(again, 2), policy.snapshot(), {"log_cursor": 812})
    trainer = make_trainer(recipe_of(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return loaded, dict(policy.export()), metrics


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """(model, its checkpoints, what the uninterrupted run came to), once per kind of run."""

    @functools.cache
    def begin(layout: str, family: str = "qwen3", tied: bool = False, precision: str = "float32") -> Any:
        model_dir = save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)
        root = tmp_path_factory.mktemp("checkpoints")
        return model_dir, root, run_ranks(LAYOUTS[layout][0], _begin, model_dir, root, layout, precision)[0]

    return begin


def _bitwise(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _compare(expected: Any, got: Any, tolerance: float) -> None:
    assert _bitwise(got[0], expected[0]), "a weight changed in loading"
    for ours, theirs in zip(got[2], expected[2], strict=True):
        if tolerance == WEIGHTS:
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=LOSS)
        assert (ours["optimizer_steps"], ours["learning_rate"]) == (theirs["optimizer_steps"], theirs["learning_rate"])
    rare = 0.0 if tolerance == WEIGHTS else RARE
    for name, tensor in expected[1].items():
        difference = (got[1][name] - tensor).abs()
        assert (difference > tolerance).float().mean() <= rare, f"{name}: differs by {difference.max():g}"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("tp2", "one"),
        ("tp2", "pp2"),
        ("one", "tp2-sp"),
        ("one", "tp4-sp"),
        ("pp2", "dp2"),
        ("pp2-interleaved", "tp2"),
        ("one", "pp2-interleaved"),
        ("dp2", "cp2"),
        ("cp2", "tp2"),
        ("dp2", "one-replicated"),
        ("dp2-replicated", "dp2"),
        ("dp2", "dp4"),
        ("tp2-pp2", "one"),
        ("dp2", "tp2-pp2"),
    ],
)
def test_training_goes_on_under_another_layout(source: str, target: str, begun: Callable[..., Any]) -> None:
    model_dir, root, expected = begun(source)
    got = run_ranks(LAYOUTS[target][0], _go_on, model_dir, root, target, "float32")[0]
    _compare(expected, got, WEIGHTS)


@pytest.mark.parametrize(
    ("family", "tied", "source", "target"), [("qwen2", True, "pp2", "tp2"), ("llama", True, "one", "pp2")]
)
def test_tied_embeddings_and_other_families_go_on_too(
    family: str, tied: bool, source: str, target: str, begun: Callable[..., Any]
) -> None:
    model_dir, root, expected = begun(source, family, tied)
    got = run_ranks(LAYOUTS[target][0], _go_on, model_dir, root, target, "float32")[0]
    _compare(expected, got, WEIGHTS)


@pytest.mark.parametrize(("source", "target"), [("dp2", "tp2"), ("tp2", "one")])
def test_fp32_main_weights_of_a_bf16_model_go_along(source: str, target: str, begun: Callable[..., Any]) -> None:
    model_dir, root, expected = begun(source, precision="bfloat16")
    got = run_ranks(LAYOUTS[target][0], _go_on, model_dir, root, target, "bfloat16")[0]
    _compare(expected, got, WEIGHTS_BF16)


def _state(root: Path) -> dict[str, Any]:
    """Every number of a checkpoint: weights by shard, optimizer pieces by rank."""
    found: dict[str, Any] = {}
    for path in sorted(checkpoints.path_of(root, 2).glob("*.pt")):
        state = torch.load(path, weights_only=True)
        pieces = state["optimizer"]["pieces"] if "optimizer" in state else {"": state}
        for name, piece in pieces.items():
            found |= {f"{path.name} {name} {key}": value for key, value in piece.items()}
    return found


@pytest.mark.parametrize(
    ("there", "precision"), [("tp2-pp2", "float32"), ("tp4-sp", "float32"), ("cp2", "float32"), ("tp2", "bfloat16")]
)
def test_there_and_back_is_bitwise_the_same(
    there: str, precision: str, begun: Callable[..., Any], tmp_path: Path
) -> None:
    model_dir, root, _ = begun("dp2", precision=precision)
    run_ranks(LAYOUTS[there][0], _go_on, model_dir, root, there, precision, tmp_path / "there")
    run_ranks(2, _go_on, model_dir, tmp_path / "there", "dp2", precision, tmp_path / "back")
    before, after = _state(root), _state(tmp_path / "back")
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        assert same, f"{key} changed on the way"


def test_a_checkpoint_of_another_model_is_refused_by_its_numbers(begun: Callable[..., Any], tmp_path: Path) -> None:
    _, root, _ = begun("one")
    other = save_tiny_model(tmp_path / "other", "qwen2", True)
    with pytest.raises(RankFailed, match="AnotherModel.*is of another model: architecture 'Qwen3ForCausalLM'"):
        run_ranks(1, _go_on, other, root, "one", "float32")


def test_damage_is_found_on_whichever_rank_reads_it_and_the_former_is_used(
    begun: Callable[..., Any], tmp_path: Path
) -> None:
    model_dir, root, _ = begun("tp2")
    former, newest = checkpoints.path_of(tmp_path, 2), checkpoints.path_of(tmp_path, 4)
    shutil.copytree(checkpoints.path_of(root, 2), former)
    shutil.copytree(former, newest)
    victim = newest / "rank-pp0-tp1-dp0.pt"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    run_ranks(2, _go_on, model_dir, tmp_path, "pp2", "float32")  # asserts that step 2 was restored
