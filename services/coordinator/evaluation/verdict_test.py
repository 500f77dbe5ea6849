"""The decision of a trial, without a run: each planted fault by its own reason, and a good version promoted."""

import math

import numpy as np
import pytest

from penstock.recipes.sections import Canary
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.evaluation.verdict import Found, Samples, mismatch_kl, verdict

CANARY = Canary(samples=4, mismatch_kl=0.05, reward_drop=0.1, seconds=9)


def sample(
    reward: float | None, detail: str = "", failure: pb.Outcome.Failure = pb.Outcome.FAILURE_REWARD
) -> pb.Trajectory:
    t = pb.Trajectory(task_id="t", environment="e", source="e", loss_mask=b"\0\1")
    if reward is None:
        t.outcome.status, t.outcome.failure, t.outcome.detail = pb.Outcome.STATUS_FAILED, failure, detail
    else:
        t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, reward
    return t


def samples(*rewards: float | None) -> Samples:
    return {(str(i), 0): sample(reward) for i, reward in enumerate(rewards)}


def good(**changed: object) -> Found:
    found = Found(4, held=True, gaps=[0.01, -0.02], samples=samples(1, 0, 1, 0), before=samples(0, 1, 0, 1))
    for name, value in changed.items():
        setattr(found, name, value)
    return found


def test_a_good_version_is_promoted_with_its_numbers() -> None:
    reason, numbers = verdict(CANARY, good(), None)
    assert reason == "" and numbers.pop("mismatch_kl") == pytest.approx(0.000125, rel=0.02)
    assert numbers == {"samples": 4, "samples_wanted": 4, "scored": 4, "reward": 0.5, "reward_before": 0.5}


INVALID = {("0", 0): sample(None, "logprobs[3] is nan; it must be finite", pb.Outcome.FAILURE_INVALID)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"failure": "g-0 cannot take it: the checksum of 'a' differs"}, "g-0 cannot take it: the checksum"),
        ({"held": False}, "no engine took it within 9 s"),
        ({"gaps": [0.0, math.nan]}, "log-probs are not finite: of 0 samples and 1 tokens"),
        ({"samples": INVALID}, "log-probs are not finite: of 1 samples and 0 tokens"),
        ({"gaps": [-3.0] * 9}, "engine and learner disagree: a KL of 2.05 exceeds mismatch_kl 0.05"),
        ({"samples": samples(1.0)}, "1 of 4 samples were scored within 9 s"),
        ({"samples": samples(1, None, None, None)}, "1 of 4 samples were scored"),
        ({"samples": samples(0, 0, 1, 0)}, "the reward fell from 0.5 to 0.25, by more than reward_drop 0.1"),
    ],
)
def test_every_fault_is_rejected_with_its_own_reason(changed: dict[str, object], reason: str) -> None:
    said, numbers = verdict(CANARY, good(**changed), None)
    assert said.startswith(reason) and all(map(math.isfinite, numbers.values()))


def test_what_was_not_measured_promotes_nothing_but_what_cannot_be_measured_forbids_nothing() -> None:
    assert verdict(CANARY, Found(4), None)[0] and verdict(CANARY, Found(4, held=True), None)[0]
    reason, numbers = verdict(CANARY, good(gaps=None, before={}), None)
    assert reason == "" and "mismatch_kl" not in numbers and "reward_before" not in numbers
    assert verdict(CANARY, good(before={}, before_reward=0.9), None)[0].startswith("the reward fell from 0.9 to 0.5")


def test_a_reward_is_compared_with_what_the_version_before_got_for_the_same_tasks() -> None:
    """The tasks that failed before, or now, are left out on both sides."""
    reason, numbers = verdict(CANARY, good(samples=samples(1, None, 1, 0), before=samples(None, 0, 1, 0)), None)
    assert (reason, numbers["reward"], numbers["reward_before"]) == ("", 0.5, 0.5)


def test_the_distance_is_the_one_that_training_reports() -> None:
    gaps = np.random.default_rng(1).normal(0, 0.3, 1000)
    assert mismatch_kl(gaps.tolist()) == pytest.approx(float(np.mean(np.exp(gaps) - 1 - gaps)), rel=1e-9)
    assert math.isfinite(mismatch_kl([1e9, -1e9]))
