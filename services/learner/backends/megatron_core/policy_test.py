"""What the policy guarantees beside its numbers: exact resume, skipped steps, atomic checkpoints, refusals."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state

from penstock.recipes.sections import Checkpoints, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.optim.guard import NonFiniteGradients
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.directory import CheckpointError
from services.learner.checkpoints.resume import load_newest
from services.learner.checkpoints.retention import prune
from services.learner.interface.batch import Batch, InvalidBatch, TrainingSample
from services.learner.interface.policy import TokenScores
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

OPTIMIZER = Optimizer(learning_rate=1e-2, weight_decay=0.1, schedule="cosine", warmup_steps=2)
LAYOUTS = {
    "one": (1, Parallel()),
    "tp2": (2, Parallel(tensor=2)),
    "pp2": (2, Parallel(pipeline=2)),
    "pp2-interleaved": (2, Parallel(pipeline=2, virtual_stages=2)),
    "dp2": (2, Parallel()),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def make(
    model_dir: Path, parallel: Parallel, precision: str = "float32", keep_reference: bool = False
) -> MegatronPolicy:
    return MegatronPolicy.create(
        spec_of(model_dir, parallel, OPTIMIZER, precision, micro_batch_tokens=80, seed=3, keep_reference=keep_reference)
    )


def weights(policy: MegatronPolicy) -> dict[str, torch.Tensor]:
    return dict(policy.export())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------ resume
def _uninterrupted(model_dir: Path, root: Path, parallel: Parallel, precision: str) -> Any:
    policy = make(model_dir, parallel, precision)
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {"cursor": 812, "held": ["r/7/0"]})
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return weights(policy), metrics


def _resumed(model_dir: Path, root: Path, parallel: Parallel, precision: str) -> Any:
    policy = make(model_dir, parallel, precision)
    restored = load_newest(root, policy.load)
    trainer = make_trainer(recipe_of(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return weights(policy), metrics, restored


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("one", "float32"),
        ("tp2", "float32"),
        ("pp2", "float32"),
        ("dp2", "float32"),
        ("dp2", "bfloat16"),
        ("pp2-interleaved", "float32"),
    ],
)
def test_resume_is_bit_identical(name: str, precision: str, model_dir: Path, tmp_path: Path) -> None:
    world, parallel = LAYOUTS[name]
    expected, metrics = run_ranks(world, _uninterrupted, model_dir, tmp_path, parallel, precision)[0]
    got, again, restored = run_ranks(world, _resumed, model_dir, tmp_path, parallel, precision)[0]
    assert restored == (2, {"cursor": 812, "held": ["r/7/0"]})
    assert again == metrics
    assert equal(got, expected)


# ------------------------------------------------------------------ damaged checkpoints
def _two_checkpoints(model_dir: Path, root: Path) -> None:
    policy = make(model_dir, Parallel())
    for step in (1, 2):
        checkpoints.write(checkpoints.path_of(root, step), policy.snapshot(), {"step": step})


def _restore(model_dir: Path, root: Path) -> Any:
    return load_newest(root, make(model_dir, Parallel()).load)


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda c: _flip_a_bit(c / "model-pp0-tp0.pt"),
    "a short file": lambda c: (c / "rank-pp0-tp0-dp0.pt").write_bytes((c / "rank-pp0-tp0-dp0.pt").read_bytes()[:-100]),
    "a missing file": lambda c: (c / "rank-pp0-tp0-dp0.pt").unlink(),
    "a half-written manifest": lambda c: (c / "manifest.json").write_text("{"),
    "no manifest": lambda c: (c / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(damage: str, model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _two_checkpoints, model_dir, tmp_path)
    DAMAGE[damage](checkpoints.path_of(tmp_path, 2))
    assert run_ranks(1, _restore, model_dir, tmp_path)[0] == (1, {"step": 1})


def test_no_intact_checkpoint_is_an_error_not_a_fresh_start(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _two_checkpoints, model_dir, tmp_path)
    for step in (1, 2):
        _flip_a_bit(checkpoints.path_of(tmp_path, step) / "model-pp0-tp0.pt")
    with pytest.raises(RankFailed, match="none of the 2 newest checkpoints"):
        run_ranks(1, _restore, model_dir, tmp_path)


def test_an_empty_directory_is_a_fresh_start(tmp_path: Path) -> None:
    assert load_newest(tmp_path, lambda path: {}) is None
    assert load_newest(tmp_path / "absent", lambda path: {}) is None


def _save_twice(model_dir: Path, root: Path) -> None:
    policy = make(model_dir, Parallel())
    checkpoints.write(checkpoints.path_of(root, 1), policy.snapshot(), {"turn": "first"})
    checkpoints.write(checkpoints.path_of(root, 1), policy.snapshot(), {"turn": "second"})


def test_saving_a_step_again_replaces_it(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _save_twice, model_dir, tmp_path)
    assert run_ranks(1, _restore, model_dir, tmp_path)[0] == (1, {"turn": "second"})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def _save_where_rank_1_cannot_write(model_dir: Path, root: Path) -> str:
    policy = make(model_dir, Parallel())
    if torch.distributed.get_rank() == 1:
        pytest.MonkeyPatch().setattr(policy.state, "rank_file", lambda: "no-such-directory/rank.pt")
    with pytest.raises(CheckpointError, match="rank 1: .*No such file"):
        checkpoints.write(checkpoints.path_of(root, 1), policy.snapshot(), {})
    return ""


def test_a_failed_write_fails_on_every_rank_and_leaves_no_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(2, _save_where_rank_1_cannot_write, model_dir, tmp_path)
    assert list(tmp_path.iterdir()) == [], "a full disk must not stay full of the attempt"


def _die_before_the_rename(model_dir: Path, root: Path) -> None:
    policy = make(model_dir, Parallel())
    pytest.MonkeyPatch().setattr(Path, "rename", lambda self, target: os.kill(os.getpid(), signal.SIGKILL))
    checkpoints.write(checkpoints.path_of(root, 3), policy.snapshot(), {"step": 3})


def test_killed_while_saving(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _two_checkpoints, model_dir, tmp_path)
    with pytest.raises(RankFailed):
        run_ranks(1, _die_before_the_rename, model_dir, tmp_path)
    assert (tmp_path / ".step-000003.partial").exists()
    assert run_ranks(1, _restore, model_dir, tmp_path)[0] == (2, {"step": 2})
    prune(tmp_path, Checkpoints())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]


# ------------------------------------------------------------------ steps that must not be taken
class _Poison:
    """A loss whose gradient is `value` on the micro-batches of data rank 0 only."""

    names: tuple[str, ...] = ()

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, scored: TokenScores) -> tuple[torch.Tensor, torch.Tensor]:
        factor = self.value if torch.distributed.get_rank() == 0 else 1.0
        return (scored.current * factor).sum(), torch.zeros(0, dtype=torch.float64)


def _poisoned(model_dir: Path, parallel: Parallel, value: float) -> Any:
    policy = make(model_dir, parallel)
    make_trainer(recipe_of(), policy).step(random_batch(1))
    before = weights(policy)
    outcome = policy.train_step(random_batch(2), _Poison(value))
    untouched = equal(before, weights(policy))
    after = make_trainer(recipe_of(), policy).step(random_batch(3)).metrics
    return outcome.taken, policy.optimizer.skipped, untouched, after["grad_norm"], equal(before, weights(policy))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["one", "dp2"])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(name: str, value: float, model_dir: Path) -> None:
    world, parallel = LAYOUTS[name]
    results = run_ranks(world, _poisoned, model_dir, parallel, value)
    for taken, skipped, _, norm, _ in results:
        assert (taken, skipped) == (False, 1)
        assert norm == norm and norm != float("inf"), "the poison stayed in the gradient buffer"
    assert results[0][2], "weights moved in a skipped step"
    assert not results[0][4], "the step after a skipped one did nothing"


def _poison(policy: MegatronPolicy, layer: int) -> Any:
    """Makes one gradient NaN on one rank that holds the layer; the handle takes it back."""
    for p in policy.state.mapped():
        first = policy.layout.groups.dp_cp.rank() == 0 and policy.layout.groups.tp.rank() == 0
        if first and p.name == f"decoder.layers.{layer}.mlp.linear_fc2.weight":
            return p.parameter.register_hook(lambda gradient: gradient * float("nan"))
    return None


def _stopped(model_dir: Path, parallel: Parallel) -> Any:
    settings = OPTIMIZER.model_copy(update={"max_skipped": 2})
    policy = MegatronPolicy.create(spec_of(model_dir, parallel, settings, seed=3))
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):  # skipped, taken: not in a row
        handle = _poison(policy, 3)
        trainer.step(random_batch(seed))
        if handle is not None:
            handle.remove()
        trainer.step(random_batch(seed))
    before = weights(policy)
    _poison(policy, 3)
    trainer.step(random_batch(5))
    with pytest.raises(NonFiniteGradients) as raised:
        trainer.step(random_batch(6))
    return policy.optimizer.skipped, equal(before, weights(policy)), str(raised.value)


@pytest.mark.parametrize("name", ["one", "tp2", "pp2", "dp2"])
def test_too_many_skipped_steps_in_a_row_end_the_run_with_the_parameter_named(name: str, model_dir: Path) -> None:
    world, parallel = LAYOUTS[name]
    for skipped, untouched, words in run_ranks(world, _stopped, model_dir, parallel):
        assert skipped == 4 and untouched
        assert words == (
            "2 optimizer steps in a row were skipped (the most allowed): "
            "the gradient of model.layers.3.mlp.down_proj.weight is not finite"
        )


# ------------------------------------------------------------------ scoring
def _scores(model_dir: Path) -> Any:
    policy = make(model_dir, Parallel(), keep_reference=True)
    first = policy.logprobs(random_batch(5))
    outcome = make_trainer(recipe_of(kl=0.1), policy).step(random_batch(5))
    return (
        first,
        policy.logprobs(random_batch(5)),
        policy.reference_logprobs(random_batch(5)),
        policy.logprobs(random_batch(5)),
        outcome.metrics,
    )


def test_reference_logprobs_are_those_of_the_initial_weights(model_dir: Path) -> None:
    first, later, reference, later_again, metrics = run_ranks(1, _scores, model_dir)[0]
    assert torch.equal(reference, first)
    assert not torch.equal(later, first)
    assert torch.equal(later_again, later), "scoring the reference changed the weights"
    assert torch.equal(first == 0, random_batch(5).mask == 0)
    assert metrics["kl"] == 0.0, "in the first step the reference is the policy"


def _two_optimizer_steps(model_dir: Path, proximal: str) -> Any:
    policy = make(model_dir, Parallel())
    settings = recipe_of(mini_batches=2, proximal=proximal)
    return make_trainer(settings, policy).step(random_batch(6)).metrics, weights(policy)


def test_mini_batches_take_one_optimizer_step_each(model_dir: Path) -> None:
    recompute, moved = run_ranks(1, _two_optimizer_steps, model_dir, "recompute")[0]
    behaviour, otherwise = run_ranks(1, _two_optimizer_steps, model_dir, "behaviour")[0]
    assert recompute["optimizer_steps"] == behaviour["optimizer_steps"] == 2
    assert recompute["tokens"] == random_batch(6).mask.sum()
    assert behaviour["mismatch_kl"] > 0.0 and recompute["mismatch_kl"] > 0.0
    assert (behaviour["weight_mean"], behaviour["masked_share"]) == (1.0, 0.0), "p = g: no correction"
    assert not equal(moved, otherwise)


def _losses_by_budget(model_dir: Path, normalisation: str) -> list[tuple[float, float]]:
    results = []
    for budget in (40, 80, 4096):
        policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), OPTIMIZER, micro_batch_tokens=budget))
        settings = recipe_of(normalisation=normalisation, max_tokens=40)
        metrics = make_trainer(settings, policy).step(random_batch(7)).metrics
        results.append((metrics["loss"], metrics["grad_norm"]))
        parallel_state.destroy_model_parallel()
    return results


@pytest.mark.parametrize("normalisation", ["token", "sequence", "prompt", "constant"])
def test_the_loss_does_not_depend_on_how_the_batch_is_packed(normalisation: str, model_dir: Path) -> None:
    first, *others = run_ranks(1, _losses_by_budget, model_dir, normalisation)[0]
    for other in others:
        assert other == pytest.approx(first, rel=2e-5)


def _one_sequence(model_dir: Path, parallel: Parallel) -> Any:
    policy = make(model_dir, parallel)
    batch = random_batch(1).select(torch.tensor([1]))[0]
    return make_trainer(recipe_of(), policy).step(batch).metrics["loss"], weights(policy)


def test_fewer_sequences_than_ranks(model_dir: Path) -> None:
    (loss, _), (also, _) = run_ranks(2, _one_sequence, model_dir, Parallel())
    alone, _ = run_ranks(1, _one_sequence, model_dir, Parallel())[0]
    assert loss == also == pytest.approx(alone, abs=1e-6)


# ------------------------------------------------------------------ refusals
def _refusals(model_dir: Path) -> None:
    policy = make(model_dir, Parallel())
    trainer = make_trainer(recipe_of(), policy)
    with pytest.raises(InvalidBatch, match="token 251 is outside the vocabulary of 251"):
        trainer.step(Batch.from_samples([TrainingSample([1, 251], [0, 1], [0, -1.0])], "advantage"))
    with pytest.raises(InvalidBatch, match="300 tokens, the model 256 positions"):
        trainer.step(Batch.from_samples([TrainingSample([1] * 300, [0] * 299 + [1])], "advantage"))
    with pytest.raises(ValueError, match="sequence 0 has 99 tokens, but a micro-batch holds at most 80"):
        trainer.step(Batch.from_samples([TrainingSample([1] * 100, [0] * 99 + [1])], "advantage"))
    takes = policy.takes
    assert takes.vocabulary == 251 and 1 < takes.longest <= 81
    longest = [250] * takes.longest
    trainer.step(Batch.from_samples([TrainingSample(longest, [0, *[1] * (takes.longest - 1)])], "advantage"))
    with pytest.raises(ValueError, match="a micro-batch holds at most"):
        trainer.step(Batch.from_samples([TrainingSample([*longest, 1], [0, *[1] * takes.longest])], "advantage"))
    with pytest.raises(RuntimeError, match="keep_reference"):
        policy.reference_logprobs(random_batch(1))
    with pytest.raises(ValueError, match="valid: cispo, dppo, dro, geo_mean, gspo, ppo_clip"):
        make_trainer(recipe_of(loss="ppo"), policy)


def test_bad_batches_and_settings_are_refused_by_name(model_dir: Path) -> None:
    run_ranks(1, _refusals, model_dir)


def test_a_schedule_that_contradicts_the_run_is_refused_before_training(model_dir: Path) -> None:
    bad = Optimizer(schedule="wsd", decay_steps=11)

    def create() -> None:
        MegatronPolicy.create(spec_of(model_dir, Parallel(), bad, steps=10))

    with pytest.raises(RankFailed, match="optimizer.decay_steps must be in 1"):
        run_ranks(1, create)


def test_a_missing_tensor_is_named(model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model_dir, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(RankFailed, match="has no tensor model.layers.4"):
        run_ranks(1, lambda: make(broken, Parallel()) and None)
