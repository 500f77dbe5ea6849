"""Messages beside the computation change when numbers travel, not one bit of what is computed, read or written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.method import Trainer
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core import overlap
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

BUCKET = 16_000
"""Of some 160 000 numbers: several messages, and the output layer has one for itself."""
SETTINGS = recipe_of(kl=0.1, mini_batches=2)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def make(model_dir: Path, parallel: Parallel, lora: Lora | None = None) -> MegatronPolicy:
    return MegatronPolicy.create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(learning_rate=1e-2, clip_gradient=0.0),  # norms are summed in another order
            micro_batch_tokens=80,
            seed=1,
            keep_reference=True,
            lora=lora,
        )
    )


def _train(model_dir: Path, root: Path, parallel: Parallel, lora: Lora | None) -> Any:
    """Each of everything that reads or writes weights follows a step directly."""
    policy = make(model_dir, parallel, lora)
    trainer = make_trainer(SETTINGS, policy)
    said: list[Any] = [_step(trainer, 1), policy.reference_logprobs(random_batch(2)), policy.logprobs(random_batch(2))]
    said += [_step(trainer, 2), policy.logprobs(random_batch(3)), _step(trainer, 3), dict(policy.export())]
    _step(trainer, 4)
    checkpoints.write(checkpoints.path_of(root, 4), policy.snapshot(), {})
    _step(trainer, 5)
    policy.load(checkpoints.path_of(root, 4))
    said += [_step(trainer, 5), dict(policy.export())]
    return said


def _step(trainer: Trainer, seed: int) -> dict[str, float]:
    metrics = dict(trainer.step(random_batch(seed)).metrics)
    assert metrics.pop("grad_norm") > 0
    return metrics


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["all weights", "adapters"])
def test_everything_that_follows_a_step_sees_it_bit_by_bit(lora: Lora | None, model_dir: Path, tmp_path: Path) -> None:
    plain = run_ranks(2, _train, model_dir, tmp_path / "plain", Parallel(), lora)[0]
    parallel = Parallel(overlap=True, overlap_bucket=BUCKET if lora is None else 2_000)
    beside = run_ranks(2, _train, model_dir, tmp_path / "beside", parallel, lora)[0]
    assert [i for i, (a, b) in enumerate(zip(plain, beside, strict=True)) if not _equal(a, b)] == []


def _go_on(model_dir: Path, root: Path, parallel: Parallel) -> Any:
    policy = make(model_dir, parallel)
    policy.load(checkpoints.path_of(root, 4))
    trainer = make_trainer(SETTINGS, policy)
    return _step(trainer, 5), dict(policy.export())


def _messages(bucket: int) -> Parallel:
    return Parallel(overlap=True, overlap_bucket=bucket) if bucket else Parallel()


@pytest.mark.parametrize(("there", "here"), [(0, BUCKET), (BUCKET, 0), (BUCKET, 3 * BUCKET)])
def test_a_checkpoint_goes_on_with_other_messages(there: int, here: int, model_dir: Path, tmp_path: Path) -> None:
    expected = run_ranks(2, _train, model_dir, tmp_path, _messages(there), None)[0]
    metrics, weights = run_ranks(2, _go_on, model_dir, tmp_path, _messages(here))[0]
    assert metrics == expected[-2] and _equal(weights, expected[-1])


def _one_sequence(model_dir: Path, parallel: Parallel) -> Any:
    policy = make(model_dir, parallel)
    trainer = make_trainer(recipe_of(), policy)
    return [trainer.step(random_batch(seed, count=1)).metrics["loss"] for seed in (1, 2)], dict(policy.export())


def test_a_rank_with_nothing_to_train_sends_its_messages_too(model_dir: Path) -> None:
    losses, weights = run_ranks(2, _one_sequence, model_dir, Parallel())[0]
    again, beside = run_ranks(2, _one_sequence, model_dir, Parallel(overlap=True, overlap_bucket=BUCKET))[0]
    assert again == losses and _equal(beside, weights)


def _watch(model_dir: Path) -> Any:
    """(messages; those under way at the end of the second backward pass; own weights after the step; when settled)."""
    policy = make(model_dir, Parallel(overlap=True, overlap_bucket=BUCKET))
    trainer = make_trainer(recipe_of(), policy)
    trainer.step(random_batch(1))
    groups, config = policy._chunks[0].bucket_groups, policy._chunks[0].config
    finalize, under_way = config.finalize_model_grads_func, list[bool]()

    def note(*args: Any, **kwargs: Any) -> None:
        under_way.extend(group.grad_reduce_handle is not None for group in groups)
        finalize(*args, **kwargs)

    config.finalize_model_grads_func = note
    trainer.step(random_batch(2))
    own = torch.cat([p.detach().view(-1).clone() for p in policy._models[0].parameters()])
    overlap.settle(policy._chunks)
    return len(groups), under_way, own, torch.cat([p.detach().view(-1) for p in policy._models[0].parameters()])


def test_messages_really_travel_beside_the_computation(model_dir: Path) -> None:
    (messages, sent, own, whole), (_, _, other, again) = run_ranks(2, _watch, model_dir)
    assert messages > 4 and sent == [True] * messages, "gradients wait for the end of the backward pass"
    assert not torch.equal(own, other), "weights were gathered at once, so this file proves nothing of reading late"
    assert torch.equal(whole, again)
