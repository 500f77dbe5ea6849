"""What an episode is driven with, made once for each source of tasks."""

from __future__ import annotations

import dataclasses

from penstock.chat import ChatTokenizer
from penstock.environment.v1 import environment_pb2_grpc
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.membership import preferred
from penstock.recipes import Longest
from penstock.recipes.sections import Environment
from penstock.replicas.engines import Engines
from penstock.replicas.pool import Pool
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.frozen import Breathes
from services.rollout.scoring import Scoring
from services.rollout.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class Place:
    """An environment service in which episodes are played. breathes: asked of another team's that came too late."""

    address: str
    stub: environment_pb2_grpc.EnvironmentServiceAsyncStub
    agents: environment_pb2_grpc.AgentServiceAsyncStub | None = None
    breathes: Breathes | None = None


@dataclasses.dataclass(frozen=True)
class Gate:
    """A gateway, through which agents draw."""

    address: str
    stub: gateway_pb2_grpc.GatewayServiceAsyncStub


@dataclasses.dataclass(frozen=True)
class Tools:
    """What an episode is driven with. trained, measured: how long a sample may be that the learner reads, or none.
    outage: seconds for which the environment may be away, whenever the group is over; one of the run's has 0, and may
    be away until then. gateways, most_branches: for agents, through which they draw and how many contexts a sample of
    theirs may have. routes: whether a mixture's routes are recorded of what is trained."""

    model: str
    chat: ChatTokenizer
    engines: Engines
    scoring: Scoring
    environment: Environment
    trained: Longest
    measured: Longest
    places: Pool[Place] = dataclasses.field(default_factory=Pool)
    teacher: Teacher | None = None
    outage: float = 0.0
    gateways: Pool[Gate] = dataclasses.field(default_factory=Pool)
    most_branches: int = 16
    routes: bool = False

    def builder(self, task: pb.GroupTask) -> TrajectoryBuilder:
        """Of a sample of the task."""
        return TrajectoryBuilder(self.routes and task.kind == pb.TASK_KIND_TRAIN)

    def place(self, task: pb.GroupTask, index: int) -> Place:
        """Where a sample's episode is played: replicas share them, and a sample that comes again goes there again while
        that one is there."""
        known = {place.address: place for place in self.places}
        return known[preferred(f"{task.group}/{index}", known)]

    def longest(self, task: pb.GroupTask) -> Longest:
        """How long a sample of the task may be."""
        return self.trained if task.kind == pb.TASK_KIND_TRAIN else self.measured


@dataclasses.dataclass
class Deadline:
    """Of a sample, as a time of time.monotonic(). It moves on by what others took whose time is not the sample's: those
    who score, and an environment that was away."""

    at: float
