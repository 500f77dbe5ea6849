"""A reference that follows the policy: what it is, and that a run goes on with the very same one under any layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.preference.trainer import ReferenceSums
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.batch import Batch
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import preference_samples, random_batch, save_tiny_model

BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}
LAYOUTS = [
    ("megatron", 1, Parallel(), False),
    ("megatron", 2, Parallel(), True),
    ("megatron", 2, Parallel(tensor=2), False),
    ("megatron", 2, Parallel(pipeline=2), False),
    ("transformers", 1, Parallel(), False),
    ("transformers", 2, Parallel(), True),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _policy(backend: str, model_dir: Path, parallel: Parallel, on_host: bool, follows: bool = True) -> Any:
    return BACKENDS[backend].create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(learning_rate=3e-2),
            micro_batch_tokens=80,
            offload=("reference",) if on_host else (),
            seed=1,
            keep_reference=True,
            follows=follows,
        )
    )


def _steps(policy: Any) -> Any:
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed))
    return trainer


def _followed(backend: str, model_dir: Path, parallel: Parallel, on_host: bool, root: Path) -> Any:
    """After two steps the reference takes a quarter of the policy; then one step more, and a checkpoint."""
    policy = _policy(backend, model_dir, parallel, on_host)
    assert policy.reference_moves == 0
    started = {n: t.clone() for n, t in policy._reference.values.items()}
    trainer = _steps(policy)
    trained = {n: p.detach().cpu().clone() for n, p in policy._reference._parameters.items()}
    policy.follow(0.25)
    mixed = all(
        torch.allclose(value.cpu(), 0.25 * trained[n] + 0.75 * started[n].cpu(), rtol=0, atol=1e-6)
        for n, value in policy._reference.values.items()
    )
    trainer.step(random_batch(3))
    said, own = policy.reference_logprobs(random_batch(4)), policy.logprobs(random_batch(4))
    checkpoints.write(checkpoints.path_of(root, 3), policy.snapshot(), {})
    return mixed, policy.reference_moves, said, own, dict(policy.export())


def _went_on(backend: str, model_dir: Path, parallel: Parallel, on_host: bool, root: Path) -> Any:
    policy = _policy(backend, model_dir, parallel, on_host)
    policy.load(checkpoints.path_of(root, 3))
    said, own = policy.reference_logprobs(random_batch(4)), policy.logprobs(random_batch(4))
    policy.follow(1.0)
    return said, own, torch.equal(policy.reference_logprobs(random_batch(4)), own)


@pytest.mark.parametrize(("backend", "ranks", "parallel", "on_host"), LAYOUTS)
def test_a_run_goes_on_with_the_reference_it_had(
    backend: str, ranks: int, parallel: Parallel, on_host: bool, model_dir: Path, tmp_path: Path
) -> None:
    mixed, moves, said, own, _ = run_ranks(ranks, _followed, backend, model_dir, parallel, on_host, tmp_path)[0]
    assert mixed and moves == 1 and not torch.allclose(said, own, atol=1e-2)
    again, same, whole = run_ranks(ranks, _went_on, backend, model_dir, parallel, on_host, tmp_path)[0]
    assert torch.equal(again, said) and torch.equal(same, own) and whole, "exactly, under the layout that wrote it"
    elsewhere, _, whole = run_ranks(3 - ranks, _went_on, backend, model_dir, Parallel(), False, tmp_path)[0]
    torch.testing.assert_close(elsewhere, said, rtol=0, atol=1e-5)
    assert whole


def _stays(model_dir: Path, root: Path) -> Any:
    policy = _policy("megatron", model_dir, Parallel(), False, follows=False)
    first = policy.reference_logprobs(random_batch(4))
    _steps(policy)
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {})
    return torch.equal(policy.reference_logprobs(random_batch(4)), first)


def _goes_on(model_dir: Path, root: Path, follows: bool) -> None:
    _policy("megatron", model_dir, Parallel(), False, follows).load(checkpoints.path_of(root, 2))


def test_a_reference_that_stays_is_in_no_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    """And a run that follows does not go on from such a one."""
    assert run_ranks(1, _stays, model_dir, tmp_path)[0]
    files = checkpoints.manifest_of(checkpoints.path_of(tmp_path, 2)).files
    assert not any(name.startswith("reference") for name in files)
    run_ranks(1, _goes_on, model_dir, tmp_path, False)
    with pytest.raises(RankFailed, match="is of another model"):
        run_ranks(1, _goes_on, model_dir, tmp_path, True)


def _sums(model_dir: Path) -> Any:
    policy = _policy("transformers", model_dir, Parallel(), False)
    batch, sums = Batch.from_samples(preference_samples(1), "role"), ReferenceSums(policy)
    first = sums.of(batch)
    _steps(policy)
    before = torch.equal(sums.of(batch), first)
    policy.follow(1.0)
    return before, torch.equal(sums.of(batch), first), torch.equal(sums.of(batch), ReferenceSums(policy).of(batch))


def test_what_was_known_of_a_reference_is_forgotten_when_it_moves(model_dir: Path) -> None:
    assert run_ranks(1, _sums, model_dir)[0] == (True, False, True)


def test_a_run_knows_the_steps_after_which_it_moves() -> None:
    following = recipe_of("dpo", algorithm={"reference": {"sync_every": 3, "mix": 0.5}}).algorithm.reference
    assert [step for step in range(1, 10) if following.due(step)] == [3, 6, 9]
    assert not any(recipe_of("dpo").algorithm.reference.due(step) for step in range(1, 10))
