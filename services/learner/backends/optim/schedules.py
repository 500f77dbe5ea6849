"""Learning-rate schedules: a factor of the peak rate for each optimizer step. Pure functions of the step.

A schedule is evaluated, not advanced: a resumed run needs no scheduler state beside the step count.
"""

import math

from services.learner.interface.settings import ScheduleSettings


class ScheduleError(ValueError):
    """Settings of a schedule contradict each other."""


def check(settings: ScheduleSettings) -> None:
    """Raises ScheduleError, naming the field, for settings under which no learning rate is defined."""
    s = settings
    if s.kind not in ("constant", "linear", "cosine", "wsd"):
        raise ScheduleError(f"schedule.kind {s.kind!r} is unknown; valid: constant, linear, cosine, wsd")
    if s.warmup_steps < 0:
        raise ScheduleError(f"schedule.warmup_steps must not be negative, got {s.warmup_steps}")
    if s.kind == "constant":
        return
    if s.total_steps is None or s.total_steps <= s.warmup_steps:
        raise ScheduleError(
            f"schedule.kind {s.kind} needs schedule.total_steps > warmup_steps ({s.warmup_steps}), got {s.total_steps}"
        )
    if s.kind == "wsd" and not 0 < s.decay_steps <= s.total_steps - s.warmup_steps:
        raise ScheduleError(
            f"schedule.decay_steps must be in 1 … {s.total_steps - s.warmup_steps} "
            f"(total_steps - warmup_steps), got {s.decay_steps}"
        )


def factor(settings: ScheduleSettings, step: int) -> float:
    """Factor of the peak learning rate at 0-based optimizer step `step`.

    Warm-up is (step+1)/warmup_steps, so that no step has rate 0. After it: `constant` 1; `linear` and `cosine` fall
    from 1 to final_ratio at total_steps; `wsd` stays at 1 and falls linearly over the last decay_steps. Past
    total_steps the factor is final_ratio.
    """
    s = settings
    if step < s.warmup_steps:
        return (step + 1) / s.warmup_steps
    if s.kind == "constant":
        return 1.0
    assert s.total_steps is not None
    start = s.total_steps - s.decay_steps if s.kind == "wsd" else s.warmup_steps
    done = min(max((step - start) / (s.total_steps - start), 0.0), 1.0)
    left = (1 + math.cos(math.pi * done)) / 2 if s.kind == "cosine" else 1 - done
    return s.final_ratio + (1 - s.final_ratio) * left
