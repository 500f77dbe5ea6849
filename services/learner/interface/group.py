"""A group whose every member has ended: what the leader assembles and algorithms make samples of."""

import dataclasses
import statistics

from penstock.trajectories import oldest_step
from penstock.trajectory.v1 import trajectory_pb2 as pb


@dataclasses.dataclass(frozen=True)
class Member:
    """A sample and where the log holds it. `quarantined`: its entry was set aside, and this is how it ended."""

    trajectory: pb.Trajectory
    sequence: int
    quarantined: bool = False

    @property
    def usable(self) -> bool:
        return self.trajectory.outcome.status != pb.Outcome.STATUS_FAILED


@dataclasses.dataclass(frozen=True)
class CompleteGroup:
    """A group whose every member is terminal, in index order."""

    name: str
    members: tuple[Member, ...]

    @property
    def usable(self) -> tuple[Member, ...]:
        """The members that can be trained on."""
        return tuple(m for m in self.members if m.usable)

    @property
    def source(self) -> str:
        """Which source of the recipe's mixture it is from; empty where there is only one way."""
        return self.members[0].trajectory.source

    @property
    def reward(self) -> float | None:
        """Mean reward of the usable members; None for demonstrations."""
        rewards = [m.trajectory.reward for m in self.usable if m.trajectory.HasField("reward")]
        return statistics.fmean(rewards) if rewards else None

    def record(self) -> pb.BatchGroup:
        """The group's part of a batch record."""
        return pb.BatchGroup(
            reward=self.reward,
            group=self.name,
            indices=[m.trajectory.index for m in self.usable],
            log_sequences=[m.sequence for m in self.usable],
        )

    def age(self, version: int) -> int:
        """Steps between the oldest token's version and the consuming one; 0 for samples that no version made."""
        steps = [s for m in self.usable if (s := oldest_step(m.trajectory)) is not None]
        return max(0, version - min(steps)) if steps else 0
