import pytest

from penstock.telemetry import steps


def test_every_metric_says_what_it_means() -> None:
    for name, metric in steps.register().items():
        assert name == metric.name and name.startswith("rl.") and not name.endswith(".")
        assert metric.meaning and not metric.meaning.endswith("."), name


@pytest.mark.parametrize(
    "name", [steps.REWARD_MEAN, "rl.policy.clip_share", "rl.validation.loss", "rl.reward.component.a.b"]
)
def test_what_is_registered_is_found(name: str) -> None:
    found = steps.find(name)
    assert found is not None and name.startswith(found.name)


@pytest.mark.parametrize(
    "name", ["", "rl.reward", "rl.reward.component", "rl.reward.component.", "rl.policy.clip_shar"]
)
def test_another_name_is_unknown_and_the_nearest_is_named(name: str) -> None:
    assert steps.unknown([name, steps.LOSS]) == [name]
    assert steps.nearest("rl.policy.clip_shar") == "rl.policy.clip_share"


def test_a_family_has_a_metric_for_each_name() -> None:
    assert steps.find(steps.member(steps.STALENESS_SHARE, 2)) == steps.register()[steps.STALENESS_SHARE]
