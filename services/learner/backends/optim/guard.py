"""What a learner wraps around any optimizer: the scheduled rate, the loss scale of a float16 model, and steps that are
skipped where a gradient is not finite, with the parameters named.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from services.learner.backends.optim import schedules
from services.learner.backends.optim.loss_scale import LossScale
from services.learner.interface.errors import CannotGoOn
from services.learner.interface.policy_spec import PolicySpec
from services.learner.interface.rate import Rate
from services.learner.interface.telling import told_by_all

log = logging.getLogger(__name__)
NAMED = 3
"""Parameters that a message names; a NaN early in the model reaches all of them."""


class NonFiniteGradients(CannotGoOn):
    """Too many steps in a row had a gradient that is not finite; the message names the parameters."""


class Guard:
    """Counts the steps of an optimizer.

    Attributes:
      steps: steps asked for, skipped ones included; the schedule follows it.
      rate: how the learning rate of the next step is found; a recorded step may have had another than the recipe's.
      skipped: steps not taken because the gradient norm was NaN or infinite.
      skipped_in_a_row: of those, the ones since the last step taken that no smaller loss scale could help.
      loss_scale: of a float16 model; None: of another.
    """

    def __init__(self, spec: PolicySpec) -> None:
        """Raises schedules.ScheduleError."""
        self.settings, self._spec = spec.learner.optimizer, spec
        schedules.check_schedule(self.settings, spec.steps)
        self.rate = Rate(self.settings, spec.steps)
        self.steps = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.loss_scale = LossScale() if spec.dtype == "float16" else None

    @property
    def scale(self) -> float:
        """What the loss of the next step is multiplied by before the backward pass, and gradients divided by after."""
        return 1.0 if self.loss_scale is None else self.loss_scale.scale

    def counters(self) -> dict[str, Any]:
        """The guard's part of a checkpoint."""
        scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state()}
        return {"steps": self.steps, "skipped": self.skipped, **scale}

    def restore(self, counters: Mapping[str, Any]) -> int:
        """Takes what `counters` gave; returns how many steps were taken."""
        self.steps, self.skipped = counters["steps"], counters["skipped"]
        if self.loss_scale is not None:
            self.loss_scale = LossScale.of(counters.get("loss_scale"))
        return self.steps - self.skipped

    def taken(self) -> None:
        """Counts a step that is taken."""
        self.skipped_in_a_row = 0
        if self.loss_scale is not None:
            self.loss_scale.grow()

    @property
    def learning_rate(self) -> float:
        """Rate of the next step."""
        peak = self.rate.optimizer
        return peak.learning_rate * schedules.factor(peak, self.rate.steps, self.steps, self._spec.updates)

    def skip(self, norm: float, own: Sequence[str]) -> None:
        """Counts a step that is not taken, and says which gradients are at fault; a collective. A float16 model's loss
        scale is lowered; while that helps, the step is none of `max_skipped`.

        own: Hugging Face names of the parameters whose gradient is not finite on this rank.
        Raises NonFiniteGradients on every rank when `max_skipped` steps in a row are skipped.
        """
        self.skipped += 1
        if self.loss_scale is not None and self.loss_scale.lower():
            log.warning("optimizer step %d overflowed in float16: the loss scale is now %g", self.steps, self.scale)
            return
        self.skipped_in_a_row += 1
        culprits = list(dict.fromkeys(name for part in told_by_all(list(own)) for name in part))
        more = f" and of {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
        which = f"the gradient of {', '.join(culprits[:NAMED])}{more} is not finite"
        if not culprits:
            which = f"every gradient is finite, but their norm is {norm}"
        row, most = self.skipped_in_a_row, self.settings.max_skipped
        log.error("optimizer step %d is skipped, %d in a row: %s", self.steps, row, which)
        if row >= most:
            raise NonFiniteGradients(f"{row} optimizer steps in a row were skipped (the most allowed): {which}")
