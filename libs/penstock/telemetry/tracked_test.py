"""Trackers are told of every metric, each under a name of its own that all of them take."""

import pytest

from penstock.telemetry import steps
from penstock.telemetry.tracked import tracked, tracked_evaluation


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rl.policy.entropy", "policy/entropy"),
        ("rl.reward.component.parsed", "reward/component.parsed"),
        ("rl.reward.component.a/b@ü", "reward/component.a_b_at_ü"),
        ("rl.loss", "train/loss"),
    ],
)
def test_the_worked_examples(name: str, said: str) -> None:
    assert tracked(name) == said
    assert tracked_evaluation("pass@1") == "eval/pass_at_1"


def test_no_two_metrics_of_the_register_share_a_name_or_that_of_an_evaluation() -> None:
    names = [tracked(name) for name in steps.register()]
    assert len(set(names)) == len(names)
    assert all(name.count("/") == 1 and not name.startswith("eval/") for name in names)
    assert len(tracked("rl.reward.component." + "x" * 999)) == 250
