"""The Leader of every rank but 0."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Probe
from services.learner.checkpoints.resume import Position
from services.learner.leader.leader import Command
from services.learner.leader.preparation import Prepared
from services.learner.leader.trained import Trained
from services.learner.publishing.following import Follower


class Idle:
    """Does what rank 0 says, and takes part where that publishes."""

    def __init__(self, follower: Follower | None = None) -> None:
        self._follower = follower

    def next(self, step: int, within: float, saving: bool) -> tuple[Command, Prepared | None]:
        return Command.WAIT, None

    def stepped(self, trained: Trained, tensors: Sequence[tuple[str, Tensor]]) -> Mapping[str, float]:
        self.publish(trained.step, tensors)
        return {}

    def lacks(self, step: int) -> bool:
        return False

    def publish(self, step: int, tensors: Sequence[tuple[str, Tensor]], probes: Sequence[Probe] = ()) -> None:
        if self._follower is not None:
            self._follower.begin(tensors)

    def evaluated(self, report: pb.EvaluationReport) -> None:
        pass

    def settle(self) -> None:
        if self._follower is not None:
            self._follower.settle()

    def leave(self) -> None:
        if self._follower is not None:
            self._follower.leave()

    def position(self) -> Position:
        return Position()

    def trim(self, before: int) -> None:
        pass
