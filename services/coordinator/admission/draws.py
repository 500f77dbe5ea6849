"""Which row the next group is about: sources in proportion, rows in a seeded order, solved and hopeless ones less.

    number of the group -> source -> its next draw -> row, unless the curriculum passes over it -> the next draw ...

Which source a number belongs to is a function of the weights and the number. Which of its rows is drawn depends on how
the row's groups were rewarded, which the ledger knows; the draw itself is recorded with the admission, so a restarted
coordinator goes on behind it, and makes the task of an admitted group from its record alone.

Invariants (test names): the first n groups hold each source's share of n, give or take one; without a curriculum
every pass visits every row once; with one a solved row is passed over, and no source ever runs dry.
"""

import dataclasses
import random
from collections.abc import Mapping, Sequence

from penstock.datasets import Dataset
from penstock.ledger import Ledger
from penstock.recipes.sections import Curriculum
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.admission.pacing import Slot

ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Draw:
    """One row of one source. `at`: which draw of the source it is; `turn`: which pass over its rows."""

    source: str
    at: int
    turn: int
    row: int

    @staticmethod
    def recorded(admitted: pb.Admitted) -> "Draw":
        """The draw of an admitted group."""
        return Draw(admitted.source, admitted.draw, getattr(admitted, "pass"), admitted.row)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The training rows of a source."""

    dataset: Dataset
    curriculum: Curriculum
    weight: float


class Drawing:
    """Draws for groups that may be admitted."""

    def __init__(self, sources: Mapping[str, Rows]) -> None:
        self._sources = dict(sources)
        self._shares = Shares([rows.weight for rows in sources.values()])

    def draws(self, slots: Sequence[Slot], ledger: Ledger) -> list[Draw]:
        """One draw for each slot, in order."""
        names = list(self._sources)
        following = {name: ledger.draws.get(name, 0) for name in names}
        drawn = []
        for slot in slots:
            name = names[self._shares.of(slot.number)]
            draw = self._next(name, following[name], ledger)
            following[name] = draw.at + 1
            drawn.append(draw)
        return drawn

    def _next(self, name: str, start: int, ledger: Ledger) -> Draw:
        """The first draw from `start` on that the curriculum keeps; `start` itself if a whole pass has none."""
        rows = self._sources[name]
        for at in range(start, start + len(rows.dataset)):
            turn, row = rows.dataset.position(at)
            if keeps(rows.curriculum, ledger.rewards.get((name, row), ()), f"{rows.dataset.seed}/{turn}/{row}"):
                return Draw(name, at, turn, row)
        return Draw(name, start, *rows.dataset.position(start))


def keeps(curriculum: Curriculum, rewards: Sequence[float], seed: str) -> bool:
    """Whether a row is drawn, given the mean rewards of its earlier groups in order.

    A row never seen is. `retire_after` solved groups at the end retire it. Otherwise its chance is
    (1 - focus) + focus x max(least, 4 p (1 - p)), p being the newest mean reward as a pass rate: the variance of a
    group's rewards, and with it the signal of its advantages, is greatest at one half.
    """
    if not rewards:
        return True
    after = curriculum.retire_after
    if after and len(rewards) >= after and all(r >= curriculum.retire_at for r in rewards[-after:]):
        return False
    p = min(1.0, max(0.0, rewards[-1]))
    chance = 1 - curriculum.focus + curriculum.focus * max(curriculum.least, 4 * p * (1 - p))
    return random.Random(seed).random() < chance


class Shares:
    """Numbers dealt to sources in proportion to their weights: after n of them each has its share of n, give or take
    less than one.

    A source that would come out ahead by too much is passed over; of the others the one goes first that could wait
    least before it fell behind by as much. (Always taking the one furthest behind drifts further than one.) Source:
    Tijdeman 1980, "The chairman assignment problem": of k sources none is off by more than 1 - 1 / (2 k - 2).
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = [w / sum(weights) for w in weights]
        self._counts = [0] * len(weights)
        self._dealt: list[int] = []

    def of(self, number: int) -> int:
        """The source of a number."""
        while len(self._dealt) <= number:
            source = self._next()
            self._counts[source] += 1
            self._dealt.append(source)
        return self._dealt[number]

    def _next(self) -> int:
        n, least = len(self._dealt) + 1, 1 / max(1, 2 * len(self._weights) - 2)
        behind = [w * n - count for w, count in zip(self._weights, self._counts, strict=True)]
        may = [i for i, b in enumerate(behind) if b >= least - ROUNDING] or [behind.index(max(behind))]
        return min(may, key=lambda i: (1 - least - behind[i]) / self._weights[i])
