"""Learning-rate schedules by hand."""

import pytest

from services.learner.backends.optim import schedules
from services.learner.interface.settings import ScheduleSettings as S


def factors(settings: S, steps: int) -> list[float]:
    schedules.check(settings)
    return [schedules.factor(settings, step) for step in range(steps)]


def test_warmup_moves_from_the_first_step():
    assert factors(S("constant", warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear():
    assert factors(S("linear", total_steps=4, final_ratio=0.2), 6) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_cosine():
    assert factors(S("cosine", warmup_steps=1, total_steps=5), 7) == pytest.approx(
        [1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0], abs=1e-6
    )


def test_wsd_holds_then_falls():
    assert factors(S("wsd", warmup_steps=2, total_steps=8, decay_steps=4), 9) == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (S("cosin"), "valid: constant, linear, cosine, wsd"),  # type: ignore[arg-type]
        (S("linear"), "needs schedule.total_steps"),
        (S("linear", warmup_steps=5, total_steps=5), "total_steps > warmup_steps"),
        (S("wsd", total_steps=10), "decay_steps must be in 1 … 10"),
        (S(warmup_steps=-1), "warmup_steps must not be negative"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(schedules.ScheduleError, match=message):
        schedules.check(settings)
