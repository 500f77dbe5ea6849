"""The factor that keeps gradients of a float16 model within the few orders of magnitude that float16 has.

    loss × scale ── backward, in fp16 ──► gradients × scale ── in fp32: ÷ scale ──► norm, clip, step

    every gradient finite   step taken; after GROWTH_INTERVAL of them in a row the scale doubles
    one is not              step skipped, the scale is halved: the next batch is tried with the smaller one

A power of two, so that dividing by it is exact. Where it is 1 already there is nothing to lower, and a gradient that is
not finite is the model's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

INITIAL, LEAST, MOST = 2.0**16, 1.0, 2.0**24
GROWTH_INTERVAL = 200
"""Runs have hundreds of steps; a scale that is too large costs one of them in so many."""


@dataclass
class LossScale:
    """Attributes:
    scale: the factor of the next step's loss.
    good: steps taken since it was changed.
    """

    scale: float = INITIAL
    good: int = 0

    def grow(self) -> None:
        """A step was taken."""
        self.good += 1
        if self.good == GROWTH_INTERVAL:
            self.scale, self.good = min(2 * self.scale, MOST), 0

    def lower(self) -> bool:
        """A gradient overflowed; says whether that can be helped."""
        helped, self.good = self.scale > LEAST, 0
        self.scale = max(self.scale / 2, LEAST)
        return helped

    def state(self) -> dict[str, float]:
        return {"scale": self.scale, "good": self.good}

    @staticmethod
    def of(state: Mapping[str, float] | None) -> "LossScale":
        """None: of a checkpoint that had no need of one."""
        return LossScale() if state is None else LossScale(state["scale"], int(state["good"]))
