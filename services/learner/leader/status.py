"""What the learner is doing, and what it was asked to do."""

import dataclasses
import threading

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.learner.v1 import learner_pb2 as pb

State = pb.GetStatusResponse.State


@dataclasses.dataclass
class Status:
    """Written by the training thread, read by the server; single fields, so no lock is needed."""

    max_steps: int
    epoch: int = 0
    step: int = 0
    state: State = State.STATE_STARTING
    checkpoint_step: int | None = None
    step_ended: float | None = None
    step_started_at: Timestamp = dataclasses.field(default_factory=Timestamp)
    save_wanted: threading.Event = dataclasses.field(default_factory=threading.Event)
    drain_wanted: threading.Event = dataclasses.field(default_factory=threading.Event)
    finish_wanted: threading.Event = dataclasses.field(default_factory=threading.Event)
    evicted: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def ends_early(self) -> bool:
        """Whether its process was told to end, and not its run."""
        return self.evicted.is_set() and not self.drain_wanted.is_set()

    def saved(self, step: int) -> None:
        """A checkpoint of `step` is on the disk."""
        self.checkpoint_step = step
