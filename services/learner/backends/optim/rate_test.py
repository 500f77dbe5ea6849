"""A rate is in the ledger what it was in the recipe, and an optimizer follows the one it is given."""

import pytest

from penstock.recipes.sections import Learner, Optimizer
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.backends.optim.guard import Guard
from services.learner.interface.policy_spec import PolicySpec
from services.learner.interface.rate import Rate

FALLING = Optimizer(learning_rate=3e-4, schedule="wsd", warmup_steps=2, decay_steps=3, final_ratio=0.1, beta1=0.5)


@pytest.mark.parametrize("optimizer", [FALLING, Optimizer(learning_rate=1.0)])
def test_what_was_recorded_is_followed_whatever_the_recipe_says_now(optimizer: Optimizer) -> None:
    before = Rate(optimizer, 9)
    now = Rate(Optimizer(learning_rate=7.0, schedule="linear", warmup_steps=1, beta1=0.5), 20)
    found = now.under(pb.Schedule.FromString(before.recorded().SerializeToString()))
    assert found.recorded() == before.recorded() and found.optimizer.beta1 == 0.5


def test_an_optimizer_goes_on_at_the_rate_it_is_given() -> None:
    guard = Guard(PolicySpec("m", learner=Learner(optimizer=FALLING), steps=9))
    rates = list[float]()
    for rate in (Rate(FALLING, 9), Rate(FALLING, 9), Rate(Optimizer(learning_rate=1.0, schedule="linear"), 4)):
        guard.rate = rate
        rates.append(guard.learning_rate)
        guard.steps += 1
    assert rates == pytest.approx([1.5e-4, 3e-4, 0.5])


@pytest.mark.parametrize("field", [{"schedule": "sawtooth"}, {"learning_rate": -1.0}, {"final_ratio": 2.0}])
def test_a_schedule_that_no_learner_wrote_is_refused(field: dict[str, object]) -> None:
    written = Rate(FALLING, 9).recorded()
    for name, value in field.items():
        setattr(written, name, value)
    with pytest.raises(ValueError, match=next(iter(field))):
        Rate(FALLING, 9).under(written)
