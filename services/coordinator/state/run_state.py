"""Where a run stands, from its start to its end, and why: the only place that changes it.

    STARTING -> RUNNING <-> PAUSED -> STOPPING -> DONE | STOPPED | FAILED

Whatever an RPC, a full set of steps, a reached target or a row of failures asks for is a method here, so that what
happens when two of them come together is decided once. A pause while a run ends waits for nothing; a failure while it
is stopped is a failure, and is told behind the reason that came first.

Invariants (test names): a final state is never left; the first reason stands; nothing is admitted while stopping or
over.
"""

import logging

from penstock.coordinator.v1 import coordinator_pb2 as pb

logger = logging.getLogger(__name__)

FINAL = (pb.RUN_STATE_DONE, pb.RUN_STATE_STOPPED, pb.RUN_STATE_FAILED)


class RunState:
    """The state of one run.

    Attributes:
        value: the state as the proto has it. reason: why the run ends or ended as it does; empty if nothing is to say.
        paused_for: why it was paused last, where that was not a person's wish.
    """

    def __init__(self) -> None:
        self.value: pb.RunState = pb.RUN_STATE_STARTING
        self.reason = self.paused_for = ""
        self._ending = False
        self._asked = False

    @property
    def word(self) -> str:
        """The state for people: "running"."""
        return pb.RunState.Name(self.value).removeprefix("RUN_STATE_").lower()

    @property
    def over(self) -> bool:
        """Whether nothing can happen any more."""
        return self.value in FINAL

    @property
    def ending(self) -> bool:
        """Whether the run was told to end, by a user or by its target; it stays true afterwards."""
        return self._ending

    @property
    def asked(self) -> bool:
        """Whether it was a user who told the run to end."""
        return self._asked

    @property
    def admitting(self) -> bool:
        """Whether groups may be admitted."""
        return self.value == pb.RUN_STATE_RUNNING

    @property
    def expected_to_move(self) -> bool:
        """Whether a run that stands still has stalled."""
        return self.value in (pb.RUN_STATE_RUNNING, pb.RUN_STATE_STOPPING)

    def begin(self, *, paused: bool, why: str = "") -> None:
        """The run was restored. What was asked meanwhile is newer than `paused`, and stands."""
        if self.value == pb.RUN_STATE_STARTING:
            self.paused_for = why
            self._become(pb.RUN_STATE_PAUSED if paused else pb.RUN_STATE_RUNNING)

    def pause(self, paused: bool, why: str = "") -> None:
        """Pauses or resumes, unless the run ends or has ended."""
        if not self._ending and not self.over:
            self.paused_for = why
            self._become(pb.RUN_STATE_PAUSED if paused else pb.RUN_STATE_RUNNING)

    def stop(self, reason: str) -> None:
        """A user ends the run; nothing changes if it ends or has ended."""
        if self._end_for(reason):
            self._asked = True

    def finish(self, reason: str) -> bool:
        """The run has what it wanted before its last step; False, and nothing changes, if it ends or has ended."""
        return self._end_for(reason)

    def fail(self, reason: str) -> None:
        """The run is given up, also one that is being stopped."""
        if not self.over:
            self.reason = f"{self.reason}; {reason}" if self.reason else reason
            self._become(pb.RUN_STATE_FAILED)

    def end(self) -> None:
        """There is nothing left to do: STOPPED if a user asked for the end, else DONE."""
        self._become(pb.RUN_STATE_STOPPED if self._asked else pb.RUN_STATE_DONE)

    def _end_for(self, reason: str) -> bool:
        if self._ending or self.over:
            return False
        self._ending, self.reason = True, reason
        self._become(pb.RUN_STATE_STOPPING)
        return True

    def _become(self, value: pb.RunState) -> None:
        if value != self.value and not self.over:
            self.value = value
            logger.info("run is %s", self.word.upper(), extra={"reason": self.reason})
