"""Learning-rate schedules: a factor of the peak rate for each optimizer step. Pure functions of the step.

A schedule is evaluated, not advanced: a resumed run needs no scheduler state beside the step count.
"""

import math

from penstock.recipes.sections import Optimizer


class ScheduleError(ValueError):
    """The settings of a schedule contradict each other, or the run's steps."""


def check_schedule(optimizer: Optimizer, total: int) -> None:
    """Raises ScheduleError, naming the field, for settings under which a run of `total` steps has no learning rate."""
    o = optimizer
    if o.schedule == "constant":
        return
    if total <= o.warmup_steps:
        raise ScheduleError(
            f"optimizer.schedule {o.schedule} needs more steps than warmup_steps ({o.warmup_steps}), and the run has "
            f"{total}"
        )
    if o.schedule == "wsd" and decay_steps(o, total) > total - o.warmup_steps:
        raise ScheduleError(
            f"optimizer.decay_steps must be in 1 … {total - o.warmup_steps} (steps - warmup_steps), got "
            f"{decay_steps(o, total)}"
        )


def decay_steps(optimizer: Optimizer, total: int) -> int:
    """How many steps wsd falls at the end: a fifth of the run where the recipe does not say."""
    return optimizer.decay_steps or max(1, total // 5)


def factor(optimizer: Optimizer, total: int, step: int, updates: int = 1) -> float:
    """Factor of the peak learning rate at 0-based optimizer step `step` of a run of `total` steps of so many `updates`.

    Everything that the recipe names is in steps of the run; between them the rate goes on with every update. Warm-up is
    (step+1)/warmup_steps (with one update a step), so that no step has rate 0. After it: `constant` 1; `linear` and
    `cosine` fall from 1 to final_ratio at `total`; `wsd` stays at 1 and falls linearly over the last decay_steps. Past
    `total` the factor is final_ratio.
    """
    o = optimizer
    warmup, decay, total = o.warmup_steps * updates, decay_steps(o, total) * updates, total * updates
    if step < warmup:
        return (step + 1) / warmup
    if o.schedule == "constant":
        return 1.0
    start = total - decay if o.schedule == "wsd" else warmup
    done = min(max((step - start) / (total - start), 0.0), 1.0)
    left = (1 + math.cos(math.pi * done)) / 2 if o.schedule == "cosine" else 1 - done
    return o.final_ratio + (1 - o.final_ratio) * left
