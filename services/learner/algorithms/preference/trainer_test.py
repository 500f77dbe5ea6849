"""Preference steps against Hugging Face transformers with the loss written out over whole pairs, and their rules."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import logsigmoid

from penstock.recipes.sections import Optimizer, Parallel, Preference
from penstock.trajectories import float32s, int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.preference.pairs import PreferencePairs, paired
from services.learner.algorithms.preference.trainer import ReferenceSums, sequence_sums
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import Batch, TrainingSample, broadcast
from services.learner.interface.group import CompleteGroup, Member
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import adamw, preference_samples, save_tiny_model, tiny_model

OPTIMIZER = dict(learning_rate=1e-2, weight_decay=0.1, beta2=0.95, epsilon=1e-5, clip_gradient=0.5)
DPO = Preference(loss="sigmoid", beta=0.3, nll_coefficient=0.2)
ORPO = Preference(loss="orpo", beta=0.3)
KTO = Preference(loss="kto", beta=0.3)
SHORT = Preference(loss="sigmoid", beta=0.3, length_share=0.25, nll_coefficient=0.2, nll_normalisation="sum")
MEANS = Preference(loss="sigmoid", beta=0.3, nll_coefficient=0.2, nll_normalisation="sequence")
SETTINGS = {"dpo": DPO, "orpo": ORPO, "kto": KTO, "short": SHORT, "means": MEANS}
LAYOUTS = {
    "one": (1, Parallel()),
    "tp2": (2, Parallel(tensor=2)),
    "pp2": (2, Parallel(pipeline=2)),
    "cp2": (2, Parallel(context=2)),
    "dp2": (2, Parallel()),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _ids(numbers: ArrayLike) -> list[int]:
    """What a sample holds of each token."""
    return [int(n) for n in np.asarray(numbers)]


def kto_samples(seed: int) -> list[TrainingSample]:
    """Liked and disliked answers, each followed by the same answer after its predecessor's prompt."""
    answers = preference_samples(seed)
    cuts = [int(torch.tensor(s.loss_mask).argmax()) for s in answers]
    samples = []
    for i, own in enumerate(answers):
        other, cut = answers[i - 1], cuts[i - 1]
        tokens = [*_ids(other.tokens)[:cut], *_ids(own.tokens)[cuts[i] :]]
        mask = [0] * cut + [1] * (len(tokens) - cut)
        samples += [own, TrainingSample(tokens, mask, signal=0.0, group=own.group)]
    return samples


def batch_of(settings: Preference, seed: int) -> Batch:
    return Batch.from_samples(preference_samples(seed) if paired(settings) else kto_samples(seed), "role")


def _sums(model: Any, batch: Batch, share: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probs and numbers of trained tokens, one sequence at a time. share: what tokens behind the length of
    the pair's shorter answer count."""
    sums: list[torch.Tensor] = []
    counts: list[torch.Tensor] = []
    trained = [int(mask.sum()) for mask in batch.mask.split(batch.lengths.tolist())]
    sizes = batch.lengths.tolist()
    for tokens, mask in zip(batch.tokens.long().split(sizes), batch.mask.split(sizes), strict=True):
        logp = torch.log_softmax(model(tokens[None, :-1]).logits[0].float(), -1)
        own = logp.gather(1, tokens[1:, None])[:, 0][mask[1:] > 0]
        beside = len(sums) + 1 - 2 * (len(sums) % 2)
        cut = len(own) if share is None else min(len(own), trained[beside])
        sums.append(own[:cut].sum() + (share or 0.0) * own[cut:].sum())
        counts.append(mask.sum())
    return torch.stack(sums), torch.stack(counts)


def _written_out(model: Any, initial: Any, batch: Batch, settings: Preference) -> torch.Tensor:
    """From algorithms.md and the papers, not from penstock.objectives."""
    beta, share = settings.beta, settings.length_share
    current, counts = _sums(model, batch, share)
    with torch.no_grad():
        reference, _ = _sums(initial, batch, share)
    gained = current - reference
    if settings.loss == "kto":
        baseline = gained[1::2].mean().clamp(min=0).detach()
        own, liked = gained[0::2], torch.tensor([True, False] * (len(gained) // 4))
        return (1 - torch.sigmoid(torch.where(liked, 1.0, -1.0) * beta * (own - baseline))).mean()
    if settings.loss == "orpo":
        mean = current / counts
        odds = mean - torch.log1p(-mean.exp())
        return (-mean[0::2] - beta * logsigmoid(odds[0::2] - odds[1::2])).mean()
    loss = -logsigmoid(beta * (gained[0::2] - gained[1::2])).mean()
    whole = _sums(model, batch)[0][0::2]
    likelihood = {"sum": whole.mean(), "sequence": (whole / counts[0::2]).mean()}
    likelihood["token"] = whole.sum() / counts[0::2].sum()
    return loss - settings.nll_coefficient * likelihood[settings.nll_normalisation]


def _reference(settings: Preference) -> list[tuple[float, dict[str, torch.Tensor]]]:
    model, initial = tiny_model("qwen3"), tiny_model("qwen3")
    optimizer = adamw(model, **OPTIMIZER)
    steps = []
    for seed in (1, 2):
        optimizer.zero_grad()
        loss = _written_out(model, initial, batch_of(settings, seed), settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_gradient"])
        optimizer.step()
        steps.append((loss.item(), {n: p.detach().clone() for n, p in model.named_parameters()}))
    return steps


reference = functools.cache(lambda name: _reference(SETTINGS[name]))


def _policy(model_dir: Path, parallel: Parallel, **optimizer: Any) -> MegatronPolicy:
    return MegatronPolicy.create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(**{**OPTIMIZER, **optimizer}),
            micro_batch_tokens=80,
            head_chunk=11,
            seed=1,
            keep_reference=True,
        )
    )


def _train(model_dir: Path, parallel: Parallel, settings: Preference) -> Any:
    policy = _policy(model_dir, parallel)
    trainer = make_trainer(recipe_of("dpo", algorithm={"preference": settings}), policy)
    steps = []
    for seed in (1, 2):
        batch = batch_of(settings, seed) if torch.distributed.get_rank() == 0 else None
        metrics = trainer.step(broadcast(batch, policy.layout.device)).metrics
        steps.append((metrics, dict(policy.export())))
    return steps


@pytest.mark.parametrize(
    ("loss", "layout"),
    [("dpo", n) for n in LAYOUTS] + [("orpo", "one"), ("kto", "dp2"), ("short", "dp2"), ("means", "one")],
)
def test_every_layout_takes_the_step_of_the_loss_over_whole_pairs(loss: str, layout: str, model_dir: Path) -> None:
    world, parallel = LAYOUTS[layout]
    settings = SETTINGS[loss]
    ours = run_ranks(world, _train, model_dir, parallel, settings)[0]
    for (metrics, weights), (value, expected) in zip(ours, reference(loss), strict=True):
        assert metrics["loss"] == pytest.approx(value, abs=2e-5)
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-4, msg=name)


def _learn(model_dir: Path) -> Any:
    policy = _policy(model_dir, Parallel(), learning_rate=3e-3)
    trainer = make_trainer(recipe_of("dpo"), policy)
    return [trainer.step(batch_of(DPO, 1)).metrics for _ in range(8)]


def test_the_first_step_starts_at_ln_2_and_the_margin_grows(model_dir: Path) -> None:
    history = run_ranks(1, _learn, model_dir)[0]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert history[0]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert history[-1]["accuracy"] == 1.0 and history[-1]["margin"] > 0.5 and history[-1]["loss"] < 0.5
    assert history[-1]["reward_chosen"] - history[-1]["reward_rejected"] == pytest.approx(history[-1]["margin"])


def _weighted_loss(model_dir: Path, cap: float | None) -> Any:
    """Pairs drawn when every token was likelier by 0.1 per token: they count exp(-0.1) now."""
    policy = _policy(model_dir, Parallel())
    batch = batch_of(DPO, 1)
    batch = dataclasses.replace(batch, behaviour=(policy.logprobs(batch) + 0.1) * batch.mask)
    settings = recipe_of("dpo", algorithm={"preference": Preference(importance_cap=cap)})
    return make_trainer(settings, policy).step(batch).metrics["loss"]


def test_stale_pairs_are_weighed_where_the_recipe_wants_it(model_dir: Path) -> None:
    assert run_ranks(1, _weighted_loss, model_dir, None)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert run_ranks(1, _weighted_loss, model_dir, 5.0)[0] == pytest.approx(math.exp(-0.1) * math.log(2), abs=1e-5)


def _wpo_loss(model_dir: Path) -> Any:
    """The loss, and what it is by the weights written out, where every pair costs log 2 (a policy at its reference)."""
    policy, batch = _policy(model_dir, Parallel()), batch_of(DPO, 1)
    logprobs, collisions = policy.logprobs_and_collisions(batch)
    settings = recipe_of("dpo", algorithm={"preference": Preference(wpo=True)})
    near = sequence_sums(batch, logprobs - collisions) / sequence_sums(batch, batch.mask)
    weights = near.view(-1, 2).sum(1).clamp(max=0).exp()
    return make_trainer(settings, policy).step(batch).metrics["loss"], float((weights * math.log(2)).mean())


def test_wpo_weighs_pairs_by_the_policys_own_distribution(model_dir: Path) -> None:
    loss, expected = run_ranks(1, _wpo_loss, model_dir)[0]
    assert loss == pytest.approx(expected, rel=1e-5) and 0 < loss < math.log(2)


def _count_reference_passes(model_dir: Path) -> Any:
    policy = _policy(model_dir, Parallel())
    asked: list[int] = []
    real = policy.reference_logprobs

    def counted(batch: Batch) -> torch.Tensor:
        asked.append(batch.sequences)
        return real(batch)

    pytest.MonkeyPatch().setattr(policy, "reference_logprobs", counted)
    sums = ReferenceSums(policy)
    first, again = sums.of(batch_of(DPO, 1)), sums.of(batch_of(DPO, 1))
    both = Batch.from_samples([*preference_samples(1), *preference_samples(2)], "role")
    return asked, torch.equal(first, again), torch.equal(sums.of(both)[:10], first)


def test_the_reference_is_asked_once_for_every_sequence(model_dir: Path) -> None:
    asked, same, part = run_ranks(1, _count_reference_passes, model_dir)[0]
    assert asked == [10, 10] and same and part


def maker(preference: Preference) -> PreferencePairs:
    return PreferencePairs(recipe_of("dpo", algorithm={"preference": preference}))


def answer(index: int, reward: float, prompt: int = 5) -> Member:
    tokens, mask = [prompt, prompt + 1, 20 + index, 30 + index], [0, 0, 1, 1]
    t = pb.Trajectory(
        group="g", index=index, token_count=4, tokens=int32s(tokens), loss_mask=bytes(mask), reward=reward
    )
    t.logprobs = float32s([0.0] * 4)
    t.outcome.status = pb.Outcome.STATUS_COMPLETED
    return Member(t, index + 1)


def test_a_group_becomes_pairs_of_its_best_and_worst() -> None:
    group = CompleteGroup("g", tuple(answer(i, r) for i, r in enumerate((0.2, 0.9, 0.0, 0.5))))
    stage = maker(Preference(pairs_per_group=2))
    samples = stage.samples([group])
    assert [(_ids(s.tokens)[2] - 20, s.signal) for s in samples] == [(1, 1.0), (2, -1.0), (3, 1.0), (0, -1.0)]


def test_a_group_without_a_pair_is_filtered_not_trained() -> None:
    stage = maker(Preference(min_margin=0.5))
    assert stage.filter_reason(torch.tensor([1.0, 0.5])) == "no_pair"
    assert stage.filter_reason(torch.tensor([1.0, 0.0])) is None
    assert stage.filter_reason(torch.tensor([1.0])) == "no_pair"
    assert maker(KTO).filter_reason(torch.tensor([1.0])) is None


def test_the_other_prompt_is_another_one_whatever_the_sizes_of_the_groups() -> None:
    """2 prompts x 4 answers: 6 of 8 answers were paired with their own prompt."""
    groups = [
        CompleteGroup(f"g{i}", tuple(answer(j, 1.0, prompt=prompt) for j in range(size)))
        for i, (prompt, size) in enumerate([(5, 4), (7, 4), (5, 1), (9, 2)])
    ]
    samples = maker(KTO).samples(groups)
    asked = [_ids(s.tokens)[0] for s in samples]
    assert len(asked) == 22 and all(own != other for own, other in zip(asked[::2], asked[1::2], strict=True))


def test_answers_to_one_prompt_have_no_baseline(model_dir: Path) -> None:
    """KTO's baseline takes mismatched prompts only: the same answer to its own prompt says nothing of it."""
    groups = [CompleteGroup(f"g{i}", (answer(i, float(i == 0)),)) for i in range(2)]
    samples = maker(KTO).samples(groups)
    assert [s.signal for s in samples] == [1.0, -1.0]
    metrics = run_ranks(1, _one_prompt, model_dir, samples)[0]
    assert metrics["loss"] == pytest.approx(0.5, abs=1e-6), "1 − σ(0), as everything is like the reference"


def _one_prompt(model_dir: Path, samples: list[TrainingSample]) -> Any:
    trainer = make_trainer(recipe_of("dpo", algorithm={"preference": KTO}), _policy(model_dir, Parallel()))
    return trainer.step(Batch.from_samples(samples, "role")).metrics


def test_a_single_answer_is_also_put_to_another_prompt() -> None:
    groups = [CompleteGroup(f"g{i}", (answer(i, float(i == 0), prompt=5 + 2 * i),)) for i in range(2)]
    samples = maker(KTO).samples(groups)
    assert [s.signal for s in samples] == [1.0, 0.0, -1.0, 0.0]
    assert _ids(samples[0].tokens) == [5, 6, 20, 30]
    assert _ids(samples[1].tokens) == [7, 8, 20, 30] and _ids(samples[1].loss_mask) == [0, 0, 1, 1]
    assert _ids(samples[3].tokens) == [5, 6, 21, 31]
