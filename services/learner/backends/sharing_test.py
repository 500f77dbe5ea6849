"""What samples begin with alike is computed once, and nothing else changes; each ingredient of that is needed.

The parity tests of the backends have such samples too: they say that a tree's log-probs and gradients are those of
transformers, sequence by sequence. Here the recipe's switch is thrown, and ingredients are taken out.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import algorithm_of, make_trainer
from services.learner.backends.megatron_core import model as megatron_model
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.packing import building, packs
from services.learner.backends.packing.building import MicroBatch
from services.learner.backends.packing.packs import Pack
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import Batch, TrainingSample, broadcast
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import (
    preference_samples,
    random_batch,
    ranked_samples,
    save_tiny_model,
    save_tiny_scoring_model,
)

BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}
PATCH = pytest.MonkeyPatch()
"""Used in forked ranks alone, which end with what it has changed."""
RECIPES = {
    "grpo": recipe_of(kl=0.1, entropy_coefficient=0.05, proximal="recompute"),
    "dpo": recipe_of("dpo"),
    "sft": recipe_of("sft"),
    "reward_model": recipe_of("reward_model"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that writes, and one that scores."""
    root = tmp_path_factory.mktemp("models")
    save_tiny_model(root / "writes", "qwen3")
    save_tiny_scoring_model(root / "scores", "qwen3")
    return root


def _batch(method: str, seed: int) -> Batch:
    kind = algorithm_of(RECIPES[method]).signal
    if method == "dpo":
        return Batch.from_samples(preference_samples(seed), kind)
    if method == "reward_model":
        return Batch.from_samples(ranked_samples(seed), kind)
    return random_batch(seed, kind)


def _steps(folder: Path, backend: str, method: str, parallel: Parallel, shares: bool) -> Any:
    """(metrics of two steps, the weights after them)."""
    recipe = RECIPES[method]
    policy = BACKENDS[backend].create(
        spec_of(
            folder / ("scores" if method == "reward_model" else "writes"),
            parallel,
            Optimizer(learning_rate=1e-2, epsilon=1e-5),
            micro_batch_tokens=80,
            share_prefixes=shares,
            scores=method == "reward_model",
            keep_reference=recipe.compares_with_reference,
        )
    )
    trainer = make_trainer(recipe, policy)
    batches = [broadcast(_batch(method, seed), torch.device("cpu")) for seed in (1, 2)]
    metrics = [trainer.step(batch).metrics for batch in batches]
    return metrics, dict(policy.export())


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_method_takes_the_steps_that_it_takes_without(backend: str, method: str, folder: Path) -> None:
    shared, weights = run_ranks(1, _steps, folder, backend, method, Parallel(), True)[0]
    apart, expected = run_ranks(1, _steps, folder, backend, method, Parallel(), False)[0]
    of_packing = {"micro_batches", "packing_waste", "packing_imbalance", "rl.tokens.computed"}
    for ours, theirs in zip(shared, apart, strict=True):
        assert ours["rl.tokens.given"] == theirs["rl.tokens.given"]
        assert ours["rl.tokens.computed"] < theirs["rl.tokens.computed"]
        for name in theirs.keys() - of_packing:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4, abs=2e-5), name
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-4, msg=name)


def _branches() -> Batch:
    """Eight answers of two contexts each that begin alike: 40 tokens of a first turn, trained in one of them."""
    made, random = [], torch.Generator().manual_seed(4)
    for answer in range(8):
        shared = torch.randint(1, 60, (40,), generator=random).tolist()
        for context in range(2):
            own = torch.randint(1, 60, (9 + answer,), generator=random).tolist()
            mask = [0] * 20 + [1 - context] * 20 + [0] * 3 + [1] * (len(own) - 3)
            behaviour = [-2.0 * m for m in mask]
            signal = (-1.0) ** answer
            made.append(TrainingSample(shared + own, mask, behaviour, signal, group=answer // 4, member=answer % 4))
    return Batch.from_samples(made, "advantage")


def _branch_steps(folder: Path, backend: str, normalisation: str, tokens: int, shares: bool) -> Any:
    recipe = recipe_of(normalisation=normalisation)
    spec = spec_of(
        folder / "writes",
        Parallel(),
        Optimizer(learning_rate=1e-2, epsilon=1e-5),
        micro_batch_tokens=tokens,
        share_prefixes=shares,
    )
    policy = BACKENDS[backend].create(spec)
    metrics = make_trainer(recipe, policy).step(broadcast(_branches(), torch.device("cpu"))).metrics
    return metrics, dict(policy.export())


@pytest.mark.parametrize("normalisation", ["token", "sequence"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_branches_equal_separate_sequences(backend: str, normalisation: str, folder: Path) -> None:
    """Folded into trees in large micro-batches, or one after the other in micro-batches of one."""
    packed, weights = run_ranks(1, _branch_steps, folder, backend, normalisation, 600, True)[0]
    apart, expected = run_ranks(1, _branch_steps, folder, backend, normalisation, 60, False)[0]
    assert packed["rl.tokens.computed"] < 0.7 * apart["rl.tokens.computed"]
    assert packed["micro_batches"] < apart["micro_batches"] == 16
    for name in ("loss", "tokens", "grad_norm"):
        assert packed[name] == pytest.approx(apart[name], rel=2e-4, abs=2e-5), name
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-4, msg=name)


def _logprobs(folder: Path, parallel: Parallel, sabotage: Any) -> torch.Tensor:
    if sabotage is not None:
        sabotage()
    policy = MegatronPolicy.create(spec_of(folder / "writes", parallel, micro_batch_tokens=200))
    return policy.logprobs(broadcast(random_batch(1), torch.device("cpu")))


def _rotary_by_place() -> None:
    """As if each segment began at position 0."""

    def preprocess(self: Any, *args: Any, packed_seq_params: Any = None, **kwargs: Any) -> Any:
        found = super(megatron_model.PolicyModel, self)._preprocess(
            *args, packed_seq_params=packed_seq_params, **kwargs
        )
        starts = torch.tensor(packed_seq_params.pack.boundaries)
        sizes = starts.diff()
        place = torch.arange(int(starts[-1])) - torch.repeat_interleave(starts[:-1], sizes)
        return found[0], found[1].index_select(0, place), *found[2:]

    PATCH.setattr(megatron_model.PolicyModel, "_preprocess", preprocess)


def _one_rectangle_less() -> None:
    describe = packs.describe_pack

    def described(*args: Any) -> Pack:
        pack = describe(*args)
        full = next((p for p in reversed(pack.parts) if not p.causal), None)
        return replace(pack, parts=[p for p in pack.parts if p is not full])

    PATCH.setattr(building, "describe_pack", described)


def _rows_without_repetition() -> None:
    """Rows as a scatter would have them: one token for each position, the last that is written."""
    build = building.build

    def built(*args: Any) -> MicroBatch:
        part = build(*args)
        last = {int(row): i for i, row in enumerate(part.rows)}
        taken = torch.tensor([last[int(row)] for row in part.rows], dtype=torch.int64)
        return replace(part, targets=part.targets[taken])

    PATCH.setattr("services.learner.backends.packing.micro_batches.build", built)


def _ancestors_of_no_one() -> None:
    """Every segment a sequence of its own."""
    describe = packs.describe_pack

    def described(lengths: Any, padded: Any, device: Any, sharing: Any, parents: Any) -> Pack:
        right = describe(lengths, padded, device, sharing, parents)
        return replace(describe(lengths, padded, device, sharing), positions=right.positions)

    PATCH.setattr(building, "describe_pack", described)


def _padding_seen() -> None:
    """Queries of what descends from a segment see one key too many."""
    describe = packs.describe_pack

    def described(*args: Any) -> Pack:
        pack = describe(*args)
        parts = [
            p
            if p.causal or not isinstance(p.keys.index, slice)
            else replace(p, keys=replace(p.keys, index=slice(p.keys.index.start, p.keys.index.stop + 1)))
            for p in pack.parts
        ]
        return replace(pack, parts=parts)

    PATCH.setattr(building, "describe_pack", described)


SABOTAGE = [_rotary_by_place, _one_rectangle_less, _ancestors_of_no_one, _padding_seen]


@pytest.mark.parametrize(
    ("context", "sabotage"),
    # Where segments are padded no two samples of this batch part behind the last token of one.
    [(1, _rows_without_repetition), *((n, each) for n in (1, 2) for each in SABOTAGE)],
    ids=lambda x: getattr(x, "__name__", str(x)).strip("_"),
)
def test_each_ingredient_is_needed(context: int, sabotage: Any, folder: Path) -> None:
    layout = Parallel(context=context)
    right = run_ranks(context, _logprobs, folder, layout, None)[0]
    wrong = run_ranks(context, _logprobs, folder, layout, sabotage)[0]
    assert (wrong - right).abs().max() > 1e-2
