"""What was decided of the kept versions: which may be served. Pure; the store keeps it on disk.

    committed -> READY                          the newest READY one is served
    committed -> VERIFIED -> READY              behind a rollback, until somebody promotes it
    committed -> VERIFIED -> CANARY -> READY    where versions are tried: one at a time; next is the newest that waits
    READY, VERIFIED, CANARY -> REJECTED

Where versions are tried, the first is READY at once: there is nothing that it could be compared with.

Invariants (test names): what is rejected is never served; behind a rollback nothing newer is served until it is
promoted; something that was served stays to be served, whatever is rejected; where versions are tried, one is on trial
at a time, and it is newer than what is served; a trial that began is over before another begins, over restarts too;
what a rollback took back is served by nobody's verdict but a person's; a version that was served is not tried; none
waits for a trial where versions are not tried any more; what waits for a person goes on to, over restarts and writes
that fail.
"""

import dataclasses
import json
from collections.abc import Iterable

from penstock.weights.v1 import weights_pb2 as pb


class NothingLeft(Exception):
    """The decision would leave no version to serve."""


@dataclasses.dataclass(frozen=True)
class Standing:
    """state: READY, VERIFIED, CANARY or REJECTED. reason: why, where somebody decided it, never empty then: a VERIFIED
    version with one waits for a person, and is not tried: a rollback took it back, or nobody knows what was decided of
    it. A READY one without was committed so."""

    state: pb.VersionState
    reason: str = ""


class Lifecycle:
    """The standing of each kept version, by its step; rolled_back: whether what is committed waits for a promotion.

    tries: whether what is committed is tried before it is served. ended: by step, how many trials a person's decision
    of another version ended.
    """

    def __init__(self, tries: bool = False) -> None:
        self.rolled_back = False
        self.tries = tries
        self.ended: dict[int, int] = {}
        self._standings: dict[int, Standing] = {}

    def standing(self, step: int) -> Standing:
        """Of a kept version."""
        return self._standings[step]

    def ready(self, step: int) -> bool:
        """Whether a version may be served."""
        return step in self._standings and self._standings[step].state == pb.VERSION_STATE_READY

    def served(self, ceiling: int | None = None) -> int | None:
        """The step of the newest READY version, at most `ceiling` where that is given."""
        return max((s for s in self._standings if self.ready(s) and (ceiling is None or s <= ceiling)), default=None)

    def next_trial(self, ceiling: int | None = None) -> int | None:
        """The step of the version whose trial may begin now: the newest that waits for one, at most `ceiling` where
        that is given; None while one is on trial."""
        served = self.served()
        if self.on_trial is not None or not self.tries or self.rolled_back or served is None:
            return None
        next_ = self.waiting(ceiling, untried=True)
        return next_ if next_ is not None and next_ > served else None

    def trying(self, ceiling: int | None = None) -> int | None:
        """The step of the version on trial, which begins now where none is."""
        if (next_ := self.next_trial(ceiling)) is not None:
            self._standings[next_] = Standing(pb.VERSION_STATE_CANARY)
        return self.on_trial

    def waiting(self, ceiling: int | None = None, *, untried: bool = False) -> int | None:
        """The newest version that waits for a trial or a promotion, at most `ceiling` where that is given.

        untried: for a trial.
        """
        steps = self._steps(pb.VERSION_STATE_VERIFIED)
        steps = [step for step in steps if not untried or not self._standings[step].reason]
        return max((s for s in steps if ceiling is None or s <= ceiling), default=None)

    @property
    def on_trial(self) -> int | None:
        """The step of the version on trial, if one is."""
        return next(iter(self._steps(pb.VERSION_STATE_CANARY)), None)

    def _steps(self, state: pb.VersionState) -> list[int]:
        return [step for step, standing in self._standings.items() if standing.state == state]

    def commit(self, step: int, wrong: str = "") -> None:
        """A version is complete. wrong: what makes it one that must not be served."""
        waits = self.rolled_back or (self.tries and self.served() is not None)
        state = pb.VERSION_STATE_VERIFIED if waits else pb.VERSION_STATE_READY
        self._standings[step] = Standing(pb.VERSION_STATE_REJECTED, wrong) if wrong else Standing(state)

    def forget(self, step: int) -> None:
        """A version is no longer kept."""
        self._standings.pop(step, None)
        self.ended.pop(step, None)

    def decide(self, step: int, decision: pb.Decision, reason: str) -> None:
        """Decides of a kept version. Raises NothingLeft, and then nothing has changed."""
        match decision:
            case pb.DECISION_PROMOTE:
                self._standings[step] = Standing(pb.VERSION_STATE_READY, reason or "promoted")
                self.rolled_back = self.rolled_back and self.served() != step
                if self.on_trial is not None and self.on_trial < step:
                    self._end_trial(self.on_trial)
            case pb.DECISION_REJECT:
                if not any(self.ready(s) for s in self._standings if s != step):
                    raise NothingLeft(
                        f"version {step} cannot be rejected: no other version that is kept is promoted, so nothing "
                        "would be left to serve; promote one of them first"
                    )
                self._standings[step] = Standing(pb.VERSION_STATE_REJECTED, reason)
            case pb.DECISION_ROLL_BACK:
                for other, standing in list(self._standings.items()):
                    if other > step and self.ready(other):
                        why = f"taken back by a rollback to version {step}"
                        self._standings[other] = Standing(pb.VERSION_STATE_VERIFIED, why)
                    elif standing.state == pb.VERSION_STATE_CANARY:
                        self._end_trial(other)
                self._standings[step] = Standing(pb.VERSION_STATE_READY, reason or "rolled back to")
                self.rolled_back = True
            case _:
                raise ValueError(f"decision {decision} is unknown")

    def _end_trial(self, step: int) -> None:
        """Without a verdict: its next one is another one."""
        self._standings[step] = Standing(pb.VERSION_STATE_VERIFIED)
        self.ended[step] = self.ended.get(step, 0) + 1

    def dump(self) -> str:
        """All of it as JSON."""
        standings = {str(step): [int(s.state), s.reason] for step, s in self._standings.items()}
        ended = {str(step): count for step, count in sorted(self.ended.items())}
        said = {"tries": self.tries, "rolled_back": self.rolled_back, "standings": standings, "ended": ended}
        return json.dumps(said)

    @staticmethod
    def load(text: str, kept: Iterable[int], tries: bool = False) -> "Lifecycle":
        """The inverse, of the versions that are kept. One that it does not name was committed last, by what held then:
        whether versions are tried may be another matter now, and what waited for a trial then, or was on it, is READY.
        Raises ValueError, KeyError or TypeError for what `dump` did not write."""
        said = json.loads(text)
        rolled_back = bool(said["rolled_back"])
        found = Lifecycle(bool(said.get("tries", tries)))
        found.rolled_back = rolled_back
        ended = said.get("ended", {})
        for step in sorted(kept):
            if str(step) in ended:
                found.ended[step] = int(ended[str(step)])
            if str(step) in said["standings"]:
                state, reason = said["standings"][str(step)]
                pb.VersionState.Name(state)  # raises for a number that is none
                found._standings[step] = Standing(state, str(reason))
            else:
                found.commit(step)
        if found.tries and not tries and not found.rolled_back:
            for step, standing in list(found._standings.items()):
                if standing in (Standing(pb.VERSION_STATE_VERIFIED), Standing(pb.VERSION_STATE_CANARY)):
                    found._standings[step] = Standing(pb.VERSION_STATE_READY)
        found.tries = tries
        return found

    @staticmethod
    def unknown(kept: Iterable[int], tries: bool, why: str) -> "Lifecycle":
        """Of kept versions of which nobody knows what was decided: as behind a rollback, and all wait for a person."""
        found = Lifecycle(tries)
        found.rolled_back = True
        found._standings = {step: Standing(pb.VERSION_STATE_VERIFIED, why) for step in sorted(kept)}
        return found
