"""What this rank published last, kept so that the next version can be pushed as what has changed since.

Every so many versions, and where too much has changed, a version is pushed whole. In float32 nearly all of a model
changes in a step; that is seen in its first blocks, and costs little to see. Where learner, weight_sync and all engines
are on one host nobody has use for a difference, and none is made.

Invariant (test name): a difference is only ever from what weight_sync took last from this learner.
"""

from collections.abc import Sequence

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import ENOUGH, Layout, records_of
from services.learner.publishing.parts import Part

WORTH = 0.4
"""Of a version's bytes: a difference of more is not pushed."""


class Differences:
    """One rank's of one learner; all ranks are told the same, so that they agree. every: of so many versions one is
    pushed whole; 1 keeps nothing.

    wanted: whether anybody has use for one, as weight_sync said when the version before was begun.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._last: tuple[PolicyVersion, Layout, Sequence[memoryview]] | None = None
        self._left = 0
        self.wanted = True

    @property
    def parent(self) -> PolicyVersion | None:
        """What the next version follows; None where nothing was published yet, or it is not known what was."""
        return self._last[0] if self._last is not None else None

    def to(self, part: Part) -> list[bytes] | None:
        """What makes each tensor of the next version's part of the one before; None if it is to be pushed whole. Of a
        small part it may be all of it: what it is worth is seen in the whole (`WORTH`)."""
        if self._last is None or not self._left or not self.wanted:
            return None
        _, layout, old = self._last
        return records_of(layout, old, part.buffers, WORTH, ENOUGH) if layout == part.layout else None

    def took(self, version: PolicyVersion, part: Part, *, whole: bool) -> None:
        """weight_sync has a version, and this part of it. whole: whether it was pushed so."""
        if self._every > 1:
            self._last = version, part.layout, part.buffers
            self._left = self._every - 1 if whole else self._left - 1

    def forget(self) -> None:
        """What weight_sync has is not what was to be published."""
        self._last = None
