"""Samples with branches: one advantage for all contexts, and a loss that counts all trained tokens of the sample."""

import numpy as np
import pytest
import torch

from penstock.trajectories.branches import fill, merged
from penstock.trajectories.building import TrajectoryBuilder, header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms import resolve
from services.learner.algorithms.critic.samples import CriticSamples
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.interface.batch import Batch
from services.learner.interface.group import CompleteGroup, Member
from services.learner.testing.recipes import recipe_of


def context(prompt: int, drawn: int) -> TrajectoryBuilder:
    builder = TrajectoryBuilder()
    builder.context("user", [prompt, prompt])
    builder.begin_completion()
    builder.drawn([9] * drawn, [-0.5] * drawn, [pb.VersionSegment(first=0, version=version(1, 3))])
    builder.end_completion(pb.FINISH_REASON_STOP)
    return builder


def group(*answers: tuple[float, list[int]]) -> CompleteGroup:
    """Of answers with a reward and contexts of so many drawn tokens each."""
    task = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=len(answers))
    members = []
    for index, (reward, lengths) in enumerate(answers):
        builders = [context(10 * index + i + 1, n) for i, n in enumerate(lengths)]
        t = fill(header(task, index, "m"), merged(builders))
        t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, reward
        members.append(Member(t, index))
    return CompleteGroup(task.group, tuple(members))


GROUP = group((1.0, [4, 2]), (0.0, [3]))


def test_every_context_has_the_samples_advantage() -> None:
    """Rewards 1 and 0, mean 1/2: the sample's two contexts have 1/2 each, and the baseline counts it once."""
    made = AdvantageSamples(recipe_of(algorithm={"advantage": "dr_grpo"})).samples([GROUP])
    assert [(s.group, s.member, s.signal) for s in made] == [(0, 0, 0.5), (0, 0, 0.5), (0, 1, -0.5)]
    assert [len(list(s.tokens)) for s in made] == [6, 4, 5]  # type: ignore[arg-type]


def branched(*rewards: float) -> CompleteGroup:
    """The group, whose first sample's two contexts earned so much by themselves."""
    made = group((1.0, [4, 2]), (0.0, [3]))
    made.usable[0].trajectory.branch_rewards.extend(rewards)
    return made


@pytest.mark.parametrize(
    ("rewards", "discount", "wanted"),
    [
        # Worth 1/2 (a half of what came after it), 1 and 0: mean 1/2.
        ([], 0.5, [0.0, 0.5, -0.5]),
        # Worth 1/4 + 1, 1 and 0: mean 3/4.
        ([0.25, 1.0], 1.0, [0.5, 0.25, -0.75]),
        # Worth 1/4 + 1/2, 1 and 0: mean 7/12.
        ([0.25, 1.0], 0.5, [1 / 6, 5 / 12, -7 / 12]),
        # Worth 1 and 1: one answer, with one vote, as though nobody had said anything.
        ([0.0, 1.0], 1.0, [0.5, 0.5, -0.5]),
        # Nobody earned anything but the first: worth -1, 0 and 0.
        ([-1.0, 0.0], 0.9, [-2 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_contexts_that_are_worth_different_amounts_are_answers_of_their_own(
    rewards: list[float], discount: float, wanted: list[float]
) -> None:
    recipe = recipe_of(algorithm={"advantage": "dr_grpo", "branch_discount": discount})
    made = AdvantageSamples(recipe).samples([branched(*rewards)])
    assert [s.signal for s in made] == pytest.approx(wanted)
    assert [(s.group, s.member) for s in made] == [(0, 0), (0, 0), (0, 1)]


def test_lengths_of_such_answers_are_their_own() -> None:
    """OPO weighs by length: (4 · 1/2 + 2 · 1 + 3 · 0) / 9 = 4/9."""
    recipe = recipe_of(algorithm={"advantage": "opo", "branch_discount": 0.5})
    made = AdvantageSamples(recipe).samples([branched()])
    assert [s.signal for s in made] == pytest.approx([1 / 18, 5 / 9, -4 / 9])


def test_normalisation_counts_such_answers_as_the_one_sample_that_they_are() -> None:
    recipe = recipe_of(algorithm={"branch_discount": 0.5}, normalisation="sequence")
    batch = Batch.from_samples(AdvantageSamples(recipe).samples([branched()]), "advantage")
    found = resolve.weights(recipe)(batch)
    assert found[batch.mask > 0].tolist() == pytest.approx([1 / 12] * 6 + [1 / 6] * 3)


def test_lengths_are_of_all_trained_tokens() -> None:
    """OPO weighs by length: (6 · 1 + 3 · 0) / 9 = 2/3."""
    made = AdvantageSamples(recipe_of(algorithm={"advantage": "opo"})).samples([GROUP])
    assert [s.signal for s in made] == pytest.approx([1 / 3, 1 / 3, -2 / 3])


@pytest.mark.parametrize(
    ("normalisation", "weights"),
    [
        ("token", [1 / 9, 1 / 9, 1 / 9]),
        ("sequence", [1 / 12, 1 / 12, 1 / 6]),
        ("prompt", [1 / 9, 1 / 9, 1 / 9]),
        ("constant", [1 / 200, 1 / 200, 1 / 200]),
    ],
)
def test_normalisation_counts_all_trained_tokens_of_a_sample(normalisation: str, weights: list[float]) -> None:
    """Two samples of 4 + 2 and 3 trained tokens; by hand."""
    recipe = recipe_of(normalisation=normalisation)
    batch = Batch.from_samples(AdvantageSamples(recipe).samples([GROUP]), "advantage")
    found = resolve.weights(recipe)(batch)
    per_context = [found[(batch.sequence_of_token == i) & (batch.mask > 0)] for i in range(3)]
    for ours, wanted in zip(per_context, weights, strict=True):
        assert ours.tolist() == pytest.approx([wanted] * len(ours))


def test_a_critics_contexts_each_end_with_the_reward() -> None:
    made = CriticSamples(recipe_of(algorithm={"advantage": "gae"})).samples([GROUP])
    batch = Batch.from_samples(made, "reward")
    assert batch.signal[batch.signal != 0].tolist() == [1.0, 1.0]
    assert batch.answers.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rewards", "discount", "wanted"),
    [
        ([], 0.5, [0.5, 1.0, 0.0]),
        ([0.25, 1.0], 0.5, [0.75, 1.0, 0.0]),
        ([0.25, 1.0], 1.0, [1.25, 1.0, 0.0]),
        ([-1.0, 0.0], 0.9, [-1.0, 0.0, 0.0]),
    ],
)
def test_a_critics_contexts_each_end_with_what_they_are_worth(
    rewards: list[float], discount: float, wanted: list[float]
) -> None:
    """By hand: what a context earned, and the discounted worth of the one that began after it."""
    recipe = recipe_of(algorithm={"advantage": "gae", "branch_discount": discount})
    made = CriticSamples(recipe).samples([branched(*rewards)])
    ends = [np.asarray(s.signal) for s in made]
    assert [float(each[-1]) for each in ends] == pytest.approx(wanted)
    assert all(not each[:-1].any() for each in ends), "every other token's is 0"
    assert [(s.group, s.member) for s in made] == [(0, 0), (0, 0), (0, 1)]


def test_parts_of_a_batch_keep_their_answers() -> None:
    recipe = recipe_of()
    batch = Batch.from_samples(AdvantageSamples(recipe).samples([GROUP, GROUP]), "advantage")
    assert batch.answers.tolist() == [0, 0, 1, 2, 2, 3] and batch.group_of_answer.tolist() == [0, 0, 1, 1]
    part, _ = batch.select(torch.tensor([3, 4, 5]))
    assert part.answer_of_sequence.tolist() == [0, 0, 1] and part.group_of_answer.tolist() == [0, 0]
