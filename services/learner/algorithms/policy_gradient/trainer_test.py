"""The step as its caller sees it: it learns what it is told, and reports what happened."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes import Recipe
from penstock.recipes.sections import Kl, Optimizer, Parallel
from services.learner.algorithms.table import algorithm_of, make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import Batch, Signal, TrainingSample
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import save_tiny_model

GOOD, BAD = [5, 6, 7, 8], [5, 9, 10, 11]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def batch(kind: Signal = "advantage") -> Batch:
    return Batch.from_samples(
        [TrainingSample(t, [0, 1, 1, 1], [0.0, -5.5, -5.5, -5.5], a, 0) for t, a in ((GOOD, 1.0), (BAD, -1.0))], kind
    )


def _learn(model_dir: Path, settings: Recipe, precision: str) -> Any:
    policy = MegatronPolicy.create(
        spec_of(model_dir, Parallel(), Optimizer(learning_rate=3e-3, warmup_steps=2), precision, seed=0)
    )
    before = policy.logprobs(batch()).split(4)
    trainer = make_trainer(settings, policy)
    history = [trainer.step(batch(algorithm_of(settings).signal)).metrics for _ in range(8)]
    after = policy.logprobs(batch()).split(4)
    return [(a - b).sum().item() for a, b in zip(after, before, strict=True)], history


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", ["ppo_clip", "cispo", "gspo", "geo_mean", "reinforce", "sapo", "dppo", "vespo"])
def test_the_better_answer_becomes_likelier_and_the_worse_rarer(loss: str, precision: str, model_dir: Path) -> None:
    settings = recipe_of(loss=loss, correction="none" if loss in ("dppo", "vespo") else "tis")
    (good, bad), history = run_ranks(1, _learn, model_dir, settings, precision)[0]
    assert good > 0.5 and bad < -0.5
    assert all(isinstance(value, float) for value in history[0].values())
    assert [m["optimizer_steps"] for m in history] == list(range(1, 9))
    assert history[0]["learning_rate"] == pytest.approx(1.5e-3)
    assert history[1]["learning_rate"] == pytest.approx(3e-3)
    assert history[0]["tokens"] == 6.0


def test_supervised_training_lowers_the_loss(model_dir: Path) -> None:
    (good, bad), history = run_ranks(1, _learn, model_dir, recipe_of("sft"), "float32")[0]
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    assert good > 0 and bad > 0
    assert not {"kl", "clip_share", "mismatch_kl"} & history[0].keys()


def test_the_sampling_temperature_does_not_touch_supervised_training(model_dir: Path) -> None:
    plain, hot = (run_ranks(1, _learn, model_dir, recipe_of("sft", temperature=t), "float32")[0] for t in (1.0, 3.0))
    assert plain == hot


def _nothing_to_train(model_dir: Path) -> Any:
    policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), Optimizer(), seed=0))
    untrained = Batch.from_samples([TrainingSample(GOOD, [0, 0, 0, 0])], "advantage")
    before = dict(policy.export())
    metrics = make_trainer(recipe_of(), policy).step(untrained).metrics
    after = dict(policy.export())
    return metrics, all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_without_a_trained_token_is_a_step_of_zero(model_dir: Path) -> None:
    metrics, unchanged = run_ranks(1, _nothing_to_train, model_dir)[0]
    assert (metrics["loss"], metrics["grad_norm"], metrics["tokens"]) == (0.0, 0.0, 0.0)
    assert unchanged


def _penalised(model_dir: Path, coefficient: float, mini_batches: int) -> Any:
    """Two samples with no reward to gain, one of which drifted from the reference by 0.5 per token."""
    settings = recipe_of(
        kl=Kl(coefficient=coefficient, place="reward"),
        proximal="interpolate" if mini_batches > 1 else "recompute",
        mini_batches=mini_batches,
    )
    policy = MegatronPolicy.create(
        spec_of(model_dir, Parallel(), Optimizer(learning_rate=3e-3), seed=0, keep_reference=True)
    )
    plain = [TrainingSample(t, [0, 1, 1, 1], [0.0] * 4, 0.0, g) for g in range(2) for t in (GOOD, BAD)]
    reference = policy.reference_logprobs(Batch.from_samples(plain, "advantage")).split(4)
    drift = (0.5, 0.0, 0.0, 0.0)
    drawn = [
        dataclasses.replace(s, behaviour_logprobs=(r + d).tolist(), versions=[0] * 4)
        for s, r, d in zip(plain, reference, drift, strict=True)
    ]
    batch = Batch.from_samples(drawn, "advantage", version=1)
    before = policy.logprobs(batch).split(4)
    metrics = make_trainer(settings, policy).step(batch).metrics
    after = policy.logprobs(batch).split(4)
    return [(a - b).sum().item() for a, b in zip(after, before, strict=True)], metrics


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_a_penalty_in_the_reward_pulls_back_what_drifted(model_dir: Path, mini_batches: int) -> None:
    moved, metrics = run_ranks(1, _penalised, model_dir, 0.1, mini_batches)[0]
    assert moved[0] < -0.01, "the sample that drifted becomes rarer"
    assert metrics["kl"] == pytest.approx(0.5 / 4, abs=1e-5), "of four samples one drifted by 0.5"
    unmoved, _ = run_ranks(1, _penalised, model_dir, 1e-12, mini_batches)[0]
    assert unmoved == pytest.approx([0.0] * 4, abs=1e-3), "nothing else moves a batch without rewards"


def _with_a_stranger(model_dir: Path, settings: Recipe, stranger: bool) -> Any:
    """Two samples as the model would draw them, and perhaps one that no engine of this model can have drawn."""
    policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), Optimizer(learning_rate=3e-3), seed=0))
    samples = [TrainingSample(t, [0, 1, 1, 1], [0.0] * 4, a, 0) for t, a in ((GOOD, 1.0), (BAD, -1.0))]
    drawn = policy.logprobs(Batch.from_samples(samples, "advantage")).split(4)
    samples = [dataclasses.replace(s, behaviour_logprobs=d.tolist()) for s, d in zip(samples, drawn, strict=True)]
    if stranger:
        samples.insert(1, TrainingSample(GOOD[::-1], [0, 1, 1, 1], [0.0, -0.01, -0.01, -0.01], 5.0, 0))
    metrics = make_trainer(settings, policy).step(Batch.from_samples(samples, "advantage")).metrics
    return metrics, dict(policy.export())


@pytest.mark.parametrize("proximal", ["recompute", "behaviour"])
def test_a_sample_beyond_the_mismatch_limit_is_as_if_it_were_not_there(proximal: str, model_dir: Path) -> None:
    limited = recipe_of(proximal=proximal, mismatch_limit=2.0)
    metrics, weights = run_ranks(1, _with_a_stranger, model_dir, limited, True)[0]
    without, expected = run_ranks(1, _with_a_stranger, model_dir, recipe_of(proximal=proximal), False)[0]
    assert metrics["mismatched_share"] == pytest.approx(1 / 3)
    assert metrics["mismatch_kl"] > 1.0, "what is left out is still reported"
    assert (metrics["loss"], metrics["tokens"]) == pytest.approx((without["loss"], without["tokens"]), abs=1e-6)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-5, msg=name)
    trained, _ = run_ranks(1, _with_a_stranger, model_dir, recipe_of(proximal=proximal), True)[0]
    assert trained["tokens"] == 9.0 and "mismatched_share" not in trained


def _undecided(model_dir: Path, share: float | None) -> Any:
    policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), Optimizer(learning_rate=3e-3), seed=0))
    given = batch()
    _, entropy = policy.logprobs_and_entropies(given)
    result = make_trainer(recipe_of(top_entropy=share), policy).step(given).metrics
    return entropy, result, dict(policy.export())


def test_only_undecided_tokens_are_trained(model_dir: Path) -> None:
    """Of six trained tokens the three of the largest entropy count; the normalisation is still by all six."""
    entropy, metrics, weights = run_ranks(1, _undecided, model_dir, 0.5)[0]
    trained = entropy[batch().mask > 0]
    assert len(trained) == 6 and bool((trained > 0).all()) and float(entropy[batch().mask == 0].sum()) == 0
    assert metrics["masked_share"] == pytest.approx(0.5) and metrics["entropy"] == pytest.approx(float(trained.mean()))
    _, all_of_them, everything = run_ranks(1, _undecided, model_dir, 1.0)[0]
    _, plain, usual = run_ranks(1, _undecided, model_dir, None)[0]
    assert all_of_them == plain and all(torch.equal(usual[n], everything[n]) for n in usual)
    assert any(not torch.equal(weights[n], usual[n]) for n in usual)
