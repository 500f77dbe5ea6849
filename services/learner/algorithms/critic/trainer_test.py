"""PPO's two steps against transformers with GAE and both losses written out, and a critic's place in a run."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.recipes.sections import Critic, Optimizer, Parallel
from penstock.trajectories import float32s, int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.critic.samples import CriticSamples
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.actor_critic import ActorCritic
from services.learner.checkpoints.directory import AnotherModel
from services.learner.interface.batch import Batch, TrainingSample, broadcast
from services.learner.interface.group import CompleteGroup, Member
from services.learner.interface.policy_spec import PolicySpec
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import (
    random_samples,
    save_tiny_model,
    save_tiny_scoring_model,
    tiny_model,
    tiny_scoring_model,
)

OPTIMIZER: dict[str, Any] = dict(learning_rate=1e-2, weight_decay=0.1, beta2=0.95, epsilon=1e-5, clip_gradient=0.5)
CRITIC_RATE = 5e-3
CRITIC = Critic(discount=0.95, decay=0.8, clip=0.05)
LAYOUTS = {
    "one": (1, Parallel()),
    "tp2-sp": (2, Parallel(tensor=2, sequence_parallel=True)),
    "pp2": (2, Parallel(pipeline=2)),
    "cp2": (2, Parallel(context=2)),
    "dp2": (2, Parallel()),
}


def rewarded(sample: TrainingSample, seed: int) -> TrainingSample:
    """With a reward at the last trained token in place of an advantage."""
    mask = np.asarray(sample.loss_mask)
    rewards = np.zeros(len(mask), np.float32)
    rewards[np.flatnonzero(mask)[-1:]] = np.random.default_rng(seed).normal()
    return dataclasses.replace(sample, signal=rewards)


def batch_of(seed: int) -> Batch:
    return Batch.from_samples([rewarded(s, 100 * seed + i) for i, s in enumerate(random_samples(seed))], "reward")


# ------------------------------------------------------------------ written out, one sequence at a time
def _trained(model: Any, batch: Batch, scores: bool) -> list[torch.Tensor]:
    """Values, or log-probs, of each sequence's trained tokens."""
    found = []
    sizes = batch.lengths.tolist()
    for tokens, mask in zip(batch.tokens.long().split(sizes), batch.mask.split(sizes), strict=True):
        if scores:
            hidden = model.model(tokens[None, :-1]).last_hidden_state[0]
            said = model.score(hidden)[:, 0]
        else:
            logp = torch.log_softmax(model(tokens[None, :-1]).logits[0].float(), -1)
            said = logp.gather(1, tokens[1:, None])[:, 0]
        found.append(said[mask[1:] > 0])
    return found


def _picked(batch: Batch, column: torch.Tensor) -> list[torch.Tensor]:
    sizes = batch.lengths.tolist()
    return [c[m > 0] for c, m in zip(column.split(sizes), batch.mask.split(sizes), strict=True)]


def _estimates(values: torch.Tensor, rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    advantages, after, following = [0.0] * len(values), 0.0, 0.0
    for k in reversed(range(len(values))):
        delta = float(rewards[k]) + CRITIC.discount * following - float(values[k])
        after = delta + CRITIC.discount * CRITIC.decay * after
        advantages[k], following = after, float(values[k])
    made = torch.tensor(advantages)
    return made, made + values


def _adamw(model: Any, rate: float) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": OPTIMIZER["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, OPTIMIZER["beta2"]), eps=OPTIMIZER["epsilon"])


def _take(model: Any, optimizer: torch.optim.AdamW, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_gradient"])
    optimizer.step()
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@functools.cache
def reference(whiten: bool = True) -> list[dict[str, Any]]:
    policy, critic = tiny_model("qwen3"), tiny_scoring_model("qwen3")
    actor, valuer = _adamw(policy, OPTIMIZER["learning_rate"]), _adamw(critic, CRITIC_RATE)
    steps = []
    for seed in (1, 2):
        batch = batch_of(seed)
        values = _trained(critic, batch, True)
        before = [v.detach() for v in values]
        estimates = [_estimates(v, r) for v, r in zip(before, _picked(batch, batch.signal), strict=True)]
        returns = torch.cat([r for _, r in estimates])
        held = torch.cat([b + (v - b).clamp(-CRITIC.clip, CRITIC.clip) for v, b in zip(values, before, strict=True)])
        plain = (torch.cat(values) - returns) ** 2
        value_loss = 0.5 * torch.maximum(plain, (held - returns) ** 2).mean()
        advantages = torch.cat([a for a, _ in estimates])
        if whiten:
            advantages = (advantages - advantages.mean()) / advantages.std()
        current = torch.cat(_trained(policy, batch, False))
        weight = (current.detach() - torch.cat(_picked(batch, batch.behaviour))).exp().clamp(max=2.0)
        policy_loss = -(weight * (current - current.detach()).exp() * advantages).mean()
        spread = 1 - (returns - torch.cat(before)).var(correction=0) / returns.var(correction=0)
        steps.append(
            {
                "loss": policy_loss.item(),
                "value_loss": value_loss.item(),
                "value_explained": spread.item(),
                "critic": _take(critic, valuer, value_loss),
                "policy": _take(policy, actor, policy_loss),
            }
        )
    return steps


# ------------------------------------------------------------------ ours
def _both(
    dirs: tuple[Path, Path],
    parallel: Parallel,
    settings: Critic,
    critic_rate: float = CRITIC_RATE,
    backend: Any = MegatronPolicy,
) -> Any:
    def spec(folder: Path, rate: float, **other: Any) -> PolicySpec:
        optimizer = Optimizer(**{**OPTIMIZER, "learning_rate": rate})
        return spec_of(folder, parallel, optimizer, micro_batch_tokens=80, head_chunk=11, seed=1, **other)

    policy = backend.create(spec(dirs[0], OPTIMIZER["learning_rate"]))
    critic = backend.create(spec(dirs[1], critic_rate, scores=True), beside=policy)
    return policy, critic, make_trainer(recipe_of(algorithm={"advantage": "gae", "critic": settings}), policy, critic)


def _train(dirs: tuple[Path, Path], parallel: Parallel, backend: Any, settings: Critic = CRITIC) -> Any:
    policy, critic, trainer = _both(dirs, parallel, settings, backend=backend)
    steps = []
    for seed in (1, 2):
        rank = torch.distributed.get_rank()
        metrics = trainer.step(broadcast(batch_of(seed) if rank == 0 else None, torch.device("cpu"))).metrics
        steps.append({**metrics, "policy": dict(policy.export()), "critic": dict(critic.export())})
    return steps


@pytest.fixture(scope="module")
def dirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save_tiny_model(folder / "policy", "qwen3"), save_tiny_scoring_model(folder / "critic", "qwen3")


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, MegatronPolicy) for name in LAYOUTS), ("one", TransformersPolicy), ("dp2", TransformersPolicy)],
)
def test_every_layout_trains_policy_and_critic_as_transformers_does(
    name: str, backend: Any, dirs: tuple[Path, Path]
) -> None:
    world, parallel = LAYOUTS[name]
    ours = run_ranks(world, _train, dirs, parallel, backend)[0]
    for step, theirs in zip(ours, reference(), strict=True):
        for metric in ("loss", "value_loss", "value_explained"):
            assert step[metric] == pytest.approx(theirs[metric], abs=2e-5), metric
        for model in ("policy", "critic"):
            for key, tensor in theirs[model].items():
                torch.testing.assert_close(step[model][key], tensor, rtol=0, atol=1e-4, msg=f"{model} {key}")


def test_advantages_are_as_estimated_where_the_recipe_wants_them_so(dirs: tuple[Path, Path]) -> None:
    plain = CRITIC.model_copy(update={"whiten": False})
    ours = run_ranks(1, _train, dirs, Parallel(), MegatronPolicy, plain)[0]
    for step, theirs in zip(ours, reference(whiten=False), strict=True):
        assert step["loss"] == pytest.approx(theirs["loss"], rel=1e-4, abs=1e-5)
    assert ours[0]["loss"] != pytest.approx(reference()[0]["loss"], rel=1e-2)


def _warm_up(dirs: tuple[Path, Path]) -> Any:
    policy, critic, trainer = _both(dirs, Parallel(), Critic(clip=0.0, warmup_steps=2), 3e-4)
    seen = []
    for _ in range(3):
        metrics = trainer.step(batch_of(1)).metrics
        seen.append((metrics, dict(policy.export()), dict(critic.export())))
    return seen, policy.optimizer.steps, critic.optimizer.steps


def test_the_critic_learns_alone_while_it_warms_up(dirs: tuple[Path, Path]) -> None:
    seen, policy_steps, critic_steps = run_ranks(1, _warm_up, dirs)[0]
    (first, p0, c0), (second, p1, c1), (third, p2, _) = seen
    key = "model.layers.0.mlp.up_proj.weight"
    assert all(torch.equal(p0[k], p1[k]) for k in p0) and not torch.equal(p1[key], p2[key])
    assert not torch.equal(c0[key], c1[key]) and (policy_steps, critic_steps) == (1, 3)
    assert first["value_loss"] > second["value_loss"] > third["value_loss"]
    assert "clip_share" in third and "clip_share" not in first and first["loss"] == first["value_loss"]


# ------------------------------------------------------------------ checkpoints
def _saved(dirs: tuple[Path, Path], root: Path, parallel: Parallel, backend: Any = MegatronPolicy) -> Any:
    policy, critic, trainer = _both(dirs, parallel, CRITIC, backend=backend)
    trainer.step(batch_of(1))
    checkpoints.write(checkpoints.path_of(root, 1), ActorCritic(policy, critic).snapshot(), {"cursor": 7})
    metrics = trainer.step(batch_of(2)).metrics
    return metrics, dict(policy.export()), dict(critic.export())


def _resumed(dirs: tuple[Path, Path], root: Path, parallel: Parallel, backend: Any = MegatronPolicy) -> Any:
    policy, critic, trainer = _both(dirs, parallel, CRITIC, backend=backend)
    assert ActorCritic(policy, critic).load(checkpoints.path_of(root, 1)) == {"cursor": 7}
    metrics = trainer.step(batch_of(2)).metrics
    return metrics, dict(policy.export()), dict(critic.export())


@pytest.mark.parametrize(
    ("name", "backend"), [("one", MegatronPolicy), ("pp2", MegatronPolicy), ("one", TransformersPolicy)]
)
def test_policy_and_critic_resume_together_bit_identically_and_under_another_layout(
    name: str, backend: Any, dirs: tuple[Path, Path], tmp_path: Path
) -> None:
    world, parallel = LAYOUTS[name]
    metrics, *models = run_ranks(world, _saved, dirs, tmp_path, parallel, backend)[0]
    again, *resumed = run_ranks(world, _resumed, dirs, tmp_path, parallel, backend)[0]
    assert metrics == again
    assert all(torch.equal(a[k], b[k]) for a, b in zip(models, resumed, strict=True) for k in a)
    _, *other = run_ranks(2, _resumed, dirs, tmp_path, LAYOUTS["dp2"][1], backend)[0]
    for a, b in zip(models, other, strict=True):
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-5, msg=key)


def _policy_alone(dirs: tuple[Path, Path], root: Path) -> Any:
    policy, critic, _ = _both(dirs, Parallel(), CRITIC)
    policy.load(checkpoints.path_of(root, 1))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {})
    with pytest.raises(AnotherModel) as error:
        ActorCritic(policy, critic).load(checkpoints.path_of(root, 2))
    return dict(policy.export()), str(error.value)


def test_the_policy_can_be_had_without_its_critic_and_a_critic_is_missed(
    dirs: tuple[Path, Path], tmp_path: Path
) -> None:
    run_ranks(1, _saved, dirs, tmp_path, Parallel())
    weights, words = run_ranks(1, _policy_alone, dirs, tmp_path)[0]
    assert weights.keys() == dict(tiny_model("qwen3").named_parameters()).keys()
    assert "architecture None (here 'Qwen3ForSequenceClassification')" in words


# ------------------------------------------------------------------ from groups to samples
def test_the_reward_stands_at_the_last_token_that_the_policy_drew() -> None:
    t = pb.Trajectory(group="g", token_count=5, tokens=int32s([5, 6, 7, 8, 9]), loss_mask=bytes([0, 1, 0, 1, 0]))
    t.logprobs, t.reward = float32s([0.0, -1.0, 0.0, -2.0, 0.0]), 0.5
    t.outcome.status = pb.Outcome.STATUS_COMPLETED
    group = CompleteGroup("g", (Member(t, 1),))
    (made,) = CriticSamples(recipe_of(algorithm={"advantage": "gae", "reward_scale": 3.0})).samples([group])
    assert np.asarray(made.signal).tolist() == [0.0, 0.0, 0.0, 1.5, 0.0]
    shaped = recipe_of(max_tokens=3, algorithm={"advantage": "gae", "overlong_buffer": 2})
    (punished,) = CriticSamples(shaped).samples([group])
    assert np.asarray(punished.signal).tolist() == [0.0, 0.0, 0.0, 0.0, 0.0]  # 0.5, less half of the way to max_tokens
