"""How far generation may run ahead: which groups may be admitted now, and how old their first token may be.

At most (S + 1) x n groups are admitted but not released (S = staleness.max_versions, n = groups_per_step). A new group
behind F others is consumed F // n batches after the next one, that is, by a learner at version v + F // n at the
latest, v being the newest recorded step. So its tokens must come from version v + F // n - S or later.

Example, S = 2, n = 32, at the start (v = 0): groups 0..95 are admitted with min_step 0. When batch 1 is recorded
(v = 1, F = 64), groups 96..127 are admitted at positions 64..95 with min_step = 1 + 2 - 2 = 1: they wait until
version 1 serves.

Invariants (test names): never more than (S + 1) x n groups in flight; no admitted group can exceed the staleness bound
when it is consumed in order, whatever is filtered.
"""

import dataclasses

from penstock.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a group that may be admitted comes: its number and the oldest version its tokens may have."""

    number: int
    min_step: int


@dataclasses.dataclass(frozen=True)
class Pacing:
    """The bound. `steps` ends the run: no group is admitted that no step is left for."""

    max_versions: int
    groups_per_step: int
    steps: int

    @property
    def budget(self) -> int:
        """Most groups in flight."""
        return (self.max_versions + 1) * self.groups_per_step

    def admissible(self, ledger: Ledger) -> list[Slot]:
        """The groups that may be admitted now, in order."""
        in_flight = len(ledger.in_flight)
        wanted = (self.steps - ledger.step) * self.groups_per_step
        room = min(self.budget, wanted) - in_flight
        return [Slot(ledger.next_number + i, self._min_step(ledger.step, in_flight + i)) for i in range(max(0, room))]

    def _min_step(self, step: int, position: int) -> int:
        return max(0, step + position // self.groups_per_step - self.max_versions)
