"""Reward-model steps against transformers' sequence classifier with the loss written out over pairs."""

import functools
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from penstock.recipes.sections import Lora, Optimizer, Parallel, RewardModelLoss
from penstock.trajectories import float32s, int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.method import MeasuringTrainer
from services.learner.algorithms.reward_model.answers import BEHIND, RankedAnswers
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.gradients import gradients_of
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.directory import AnotherModel
from services.learner.huggingface import export as hf_export
from services.learner.huggingface.config import read_config
from services.learner.interface.batch import Batch, broadcast
from services.learner.interface.errors import UnsupportedModel
from services.learner.interface.group import CompleteGroup, Member
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import (
    adamw,
    ranked_samples,
    save_tiny_model,
    save_tiny_scoring_model,
    tiny_model,
    tiny_scoring_model,
)

OPTIMIZER = dict(learning_rate=1e-2, weight_decay=0.1, beta2=0.95, epsilon=1e-5, clip_gradient=0.5)
SETTINGS = RewardModelLoss(margin=0.2, centring=0.05)
RECIPE = recipe_of("reward_model", algorithm={"reward_model": SETTINGS})
LAYOUTS = {
    "one": (1, Parallel()),
    "tp2": (2, Parallel(tensor=2)),
    "tp2-sp": (2, Parallel(tensor=2, sequence_parallel=True)),
    "pp2": (2, Parallel(pipeline=2)),
    "pp2-interleaved": (2, Parallel(pipeline=2, virtual_stages=2)),
    "cp2": (2, Parallel(context=2)),
    "dp2": (2, Parallel()),
    "tp2-sp-cp2": (4, Parallel(tensor=2, context=2, sequence_parallel=True)),
}
BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}


def batch_of(seed: int) -> Batch:
    return Batch.from_samples(ranked_samples(seed), "score")


def _scores(model: Any, batch: Batch) -> torch.Tensor:
    """transformers' own pooling, one answer at a time; the token behind the answer is not among its inputs."""
    answers = batch.tokens.long().split(batch.lengths.tolist())
    return torch.stack([model(tokens[None, :-1]).logits[0, 0] for tokens in answers])


def _written_out(model: Any, batch: Batch) -> torch.Tensor:
    """From the papers, not from penstock.objectives."""
    model.config.pad_token_id = None  # these random answers hold token 0 too
    scores, per_prompt = _scores(model, batch), []
    ranks = [a[-1].item() for a in batch.signal.split(batch.lengths.tolist())]
    for group in batch.groups.unique():
        members = torch.nonzero(batch.groups == group)[:, 0].tolist()
        losses = [
            -torch.nn.functional.logsigmoid(scores[better] - scores[worse] - SETTINGS.margin)
            + SETTINGS.centring * (scores[better] + scores[worse]) ** 2
            for better, worse in itertools.permutations(members, 2)
            if ranks[better] > ranks[worse]
        ]
        per_prompt.append(torch.stack(losses).mean())
    return torch.stack(per_prompt).mean()


@functools.cache
def reference(family: str) -> list[dict[str, Any]]:
    model = tiny_scoring_model(family)
    optimizer = adamw(model, **OPTIMIZER)
    steps = []
    for seed in (1, 2):
        optimizer.zero_grad()
        loss = _written_out(model, batch_of(seed))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_gradient"])
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step()
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        steps.append({"loss": loss.item(), "norm": norm.item(), "gradients": gradients, "weights": weights})
    return steps


def _policy(
    model_dir: Path,
    parallel: Parallel,
    lora: Lora | None = None,
    backend: str = "megatron",
    distributed: bool = True,
    **other: Any,
) -> Any:
    return BACKENDS[backend].create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(**{**OPTIMIZER, **other}),
            micro_batch_tokens=80,
            seed=1,
            lora=lora,
            scores=True,
            shard_optimizer=distributed,
        )
    )


def _train(model_dir: Path, parallel: Parallel, distributed: bool, backend: str = "megatron") -> list[dict[str, Any]]:
    policy = _policy(model_dir, parallel, distributed=distributed, backend=backend)
    trainer = make_trainer(RECIPE, policy)
    assert isinstance(trainer, MeasuringTrainer)
    steps = []
    for seed in (1, 2):
        rank = torch.distributed.get_rank()
        batch = broadcast(batch_of(seed) if rank == 0 else None, torch.device("cpu"))
        held_out = trainer.measure(batch)
        metrics = trainer.step(batch).metrics
        assert held_out.items() <= metrics.items(), "what is measured is what the step says of the same batch"
        gradients = {} if distributed else gradients_of(policy)
        steps.append({"metrics": metrics, "gradients": gradients, "weights": dict(policy.export())})
    return steps


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def make(family: str, scores: bool = True) -> Path:
        save = save_tiny_scoring_model if scores else save_tiny_model
        return save(tmp_path_factory.mktemp("model"), family)

    return make


CASES = [("qwen3", name, True, "megatron") for name in LAYOUTS]
CASES += [("llama", "tp2", True, "megatron"), ("qwen2", "tp2-sp", False, "megatron")]
CASES += [("qwen3", name, False, "megatron") for name in ("one", "cp2")]
CASES += [("qwen3", name, False, "transformers") for name in ("one", "dp2", "tp2")]
CASES += [("llama", "dp2", False, "transformers")]


@pytest.mark.parametrize(("family", "name", "distributed", "backend"), CASES)
def test_every_layout_trains_as_transformers_does(
    family: str, name: str, distributed: bool, backend: str, model_dir: Any
) -> None:
    ours = run_ranks(LAYOUTS[name][0], _train, model_dir(family), LAYOUTS[name][1], distributed, backend)[0]
    for step, theirs in zip(ours, reference(family), strict=True):
        assert step["metrics"]["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert step["metrics"]["grad_norm"] == pytest.approx(theirs["norm"], rel=2e-5)
        assert step["weights"].keys() == theirs["weights"].keys()
        for key, tensor in theirs["weights"].items():
            torch.testing.assert_close(step["weights"][key], tensor, rtol=0, atol=1e-4, msg=key)
    for key, gradient in ours[0]["gradients"].items():
        error = (gradient - reference(family)[0]["gradients"][key]).abs().max()
        assert error / gradient.abs().max() < 2e-5, key


# ------------------------------------------------------------------ the head
def _fresh(model_dir: Path, lora: Lora | None, backend: str) -> Any:
    policy = _policy(model_dir, Parallel(), lora, backend, learning_rate=1e-3, weight_decay=0.0)
    trainer = make_trainer(recipe_of("reward_model"), policy)
    before = dict(policy.export())
    return before, [trainer.step(batch_of(1)).metrics for _ in range(4)], dict(policy.export())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_language_model_starts_with_equal_scores_and_learns_the_order(
    lora: Lora | None, backend: str, model_dir: Any
) -> None:
    before, steps, after = run_ranks(1, _fresh, model_dir("qwen3", False), lora, backend)[0]
    assert steps[0]["loss"] == pytest.approx(math.log(2)) and steps[0]["reward_mean"] == 0.0
    assert steps[0]["accuracy"] == 0.5, "equal scores say nothing"
    assert [s["loss"] for s in steps] == sorted((s["loss"] for s in steps), reverse=True)
    assert steps[-1]["accuracy"] > 0.5 and steps[-1]["margin"] > 0 and "entropy" not in steps[0]
    assert "lm_head.weight" not in after and not torch.equal(before["score.weight"], after["score.weight"])
    frozen = torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert frozen is (lora is not None)


def _exported(model_dir: Path, target: Path, backend: str, parallel: Parallel) -> Any:
    policy = _policy(model_dir, parallel, backend=backend)
    make_trainer(RECIPE, policy).step(batch_of(1))
    scores = policy.scores(batch_of(2))
    tensors = policy.export()
    if torch.distributed.get_rank() == 0:
        hf_export.write(tensors, model_dir, target, policy.architecture)
    else:
        assert not list(tensors)
    return scores


FAMILIES = {
    "qwen3": "Qwen3ForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "gemma": "GemmaForSequenceClassification",
    "gemma2": "Gemma2ForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
}
EXPORTS = [("megatron", "qwen3", scores) for scores in (True, False)]
EXPORTS += [("transformers", family, scores) for family in FAMILIES for scores in (True, False)]


@pytest.mark.parametrize(("backend", "family", "scores"), EXPORTS)
def test_transformers_loads_what_is_exported_and_gives_the_same_scores(
    backend: str, family: str, scores: bool, model_dir: Any, tmp_path: Path
) -> None:
    batch, target = batch_of(2), tmp_path / "export"
    ranks, parallel = (2, Parallel(tensor=2)) if family == "qwen3" else (1, Parallel())
    ours = run_ranks(ranks, _exported, model_dir(family, scores), target, backend, parallel)[0][batch.mask > 0]
    assert json.loads((target / "config.json").read_text())["architectures"] == [FAMILIES[family]]
    theirs, told = AutoModelForSequenceClassification.from_pretrained(
        target, dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"] and theirs.config.num_labels == 1
    assert type(theirs).__name__ == FAMILIES[family]
    theirs.config.pad_token_id = None
    with torch.no_grad():
        torch.testing.assert_close(ours, _scores(theirs, batch), rtol=0, atol=1e-5)


# ------------------------------------------------------------------ checkpoints
def _saved(model_dir: Path, root: Path, parallel: Parallel, backend: str = "megatron") -> Any:
    policy = _policy(model_dir, parallel, backend=backend)
    trainer = make_trainer(RECIPE, policy)
    trainer.step(batch_of(1))
    checkpoints.write(checkpoints.path_of(root, 1), policy.snapshot(), {})
    metrics = trainer.step(batch_of(2)).metrics
    return dict(policy.export()), metrics


def _resumed(model_dir: Path, root: Path, parallel: Parallel, backend: str = "megatron") -> Any:
    policy = _policy(model_dir, parallel, backend=backend)
    policy.load(checkpoints.path_of(root, 1))
    metrics = make_trainer(RECIPE, policy).step(batch_of(2)).metrics
    return dict(policy.export()), metrics


@pytest.mark.parametrize(("name", "backend"), [("pp2", "megatron"), ("dp2", "megatron"), ("dp2", "transformers")])
def test_resume_is_bit_identical_and_another_layout_goes_on_from_the_same_numbers(
    name: str, backend: str, model_dir: Any, tmp_path: Path
) -> None:
    world, parallel = LAYOUTS[name]
    expected, metrics = run_ranks(world, _saved, model_dir("qwen3"), tmp_path, parallel, backend)[0]
    got, again = run_ranks(world, _resumed, model_dir("qwen3"), tmp_path, parallel, backend)[0]
    assert again == metrics and all(torch.equal(got[key], expected[key]) for key in expected)
    other, _ = run_ranks(2, _resumed, model_dir("qwen3"), tmp_path, LAYOUTS["tp2"][1], backend)[0]
    for key, tensor in expected.items():
        torch.testing.assert_close(other[key], tensor, rtol=0, atol=1e-5, msg=key)


def _as_policy(model_dir: Path, root: Path) -> str:
    policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), Optimizer(), seed=1))
    with pytest.raises(AnotherModel) as error:
        policy.load(checkpoints.path_of(root, 1))
    return str(error.value)


def test_a_reward_models_checkpoint_is_no_policys(model_dir: Any, tmp_path: Path) -> None:
    run_ranks(1, _saved, model_dir("qwen3", False), tmp_path, Parallel())
    words = run_ranks(1, _as_policy, model_dir("qwen3", False), tmp_path)[0]
    assert "architecture 'Qwen3ForSequenceClassification' (here 'Qwen3ForCausalLM')" in words


# ------------------------------------------------------------------ what is refused
def test_a_reward_model_is_no_policy_and_a_classifier_no_reward_model(model_dir: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="is a reward model: it scores answers and cannot draw tokens"):
        read_config(model_dir("qwen3"))
    assert read_config(model_dir("qwen3"), scores=True).scores
    classifier = tiny_model("qwen3").config
    classifier.num_labels, classifier.architectures = 3, ["Qwen3ForSequenceClassification"]
    classifier.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="a reward model has 1 label, this classifier has 3"):
        read_config(tmp_path, scores=True)


# ------------------------------------------------------------------ from groups to samples
def group(name: str, *rewards: float | None) -> CompleteGroup:
    members = []
    for i, reward in enumerate(rewards):
        t = pb.Trajectory(run="r", group=name, index=i, group_size=len(rewards), kind=pb.TASK_KIND_TRAIN)
        t.token_count, t.tokens = 3, int32s([5, 6, 7 + i])
        t.loss_mask, t.logprobs = bytes([0, 1, 1]), float32s([0.0] * 3)
        t.outcome.status = pb.Outcome.STATUS_FAILED if reward is None else pb.Outcome.STATUS_COMPLETED
        if reward is not None:
            t.reward = reward
        members.append(Member(t, i + 1))
    return CompleteGroup(name, tuple(members))


def test_every_answer_is_read_once_at_its_last_token() -> None:
    samples = RankedAnswers(recipe_of("reward_model")).samples([group("g0", 1.0, None, 0.0), group("g1", 0.0, 2.0)])
    assert [(np.asarray(s.tokens).tolist(), np.asarray(s.loss_mask).tolist(), s.signal, s.group) for s in samples] == [
        ([5, 6, 7, BEHIND], [0, 0, 0, 1], 1.0, 0),
        ([5, 6, 9, BEHIND], [0, 0, 0, 1], 0.0, 0),
        ([5, 6, 7, BEHIND], [0, 0, 0, 1], 0.0, 1),
        ([5, 6, 8, BEHIND], [0, 0, 0, 1], 2.0, 1),
    ]


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [
        ((1.0, 0.0), None),
        ((1.0, 1.0), "no_pair"),
        ((0.5, 0.4), "no_pair"),
        ((1.0,), "no_pair"),
        ((0.0, 0.4, 0.8), None),
    ],
)
def test_groups_without_a_pair_are_filtered(rewards: tuple[float, ...], reason: str | None) -> None:
    recipe = recipe_of("reward_model", algorithm={"reward_model": RewardModelLoss(min_margin=0.2)})
    assert RankedAnswers(recipe).filter_reason(torch.tensor(rewards)) == reason
