"""What is said of a batch fits into a message, whatever its samples say of themselves."""

from penstock.telemetry import steps
from penstock.trajectories import TrajectoryBuilder, check_trajectory
from penstock.trajectories.building import version
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources
from services.learner.interface.group import CompleteGroup, Member
from services.learner.leader.preparation import prepare
from services.learner.testing.recipes import recipe_of

MESSAGE_BYTES = 512 << 10


def sample(index: int, reward: float, parts: list[str]) -> pb.Trajectory:
    b = TrajectoryBuilder()
    b.context("user", [5, 6])
    b.begin_completion()
    b.drawn([7], [-0.5], [pb.VersionSegment(version=version(1, 0))])
    t = b.fill(pb.Trajectory(run="r", group="g00000000", index=index, group_size=1024, kind=pb.TASK_KIND_TRAIN))
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, reward
    for name in parts:
        t.components.add(name=name, value=1.0)
    check_trajectory(t)
    return t


def test_a_report_is_bounded_though_every_sample_names_parts_of_its_own() -> None:
    made = [sample(i, i % 2, [f"{i}-{k}".ljust(128, "ä") for k in range(64)]) for i in range(300)]
    group = CompleteGroup("g00000000", tuple(Member(t, i) for i, t in enumerate(made)))
    prepared = prepare([group], Sources({"": AdvantageSamples(recipe_of())}), 0)
    report = pb.StepReport(step=1, metrics=prepared.metrics)
    assert report.ByteSize() < MESSAGE_BYTES
    assert len([n for n in report.metrics if n.startswith(steps.REWARD_COMPONENT)]) == steps.MOST_MEMBERS
    assert report.metrics[steps.REWARD_MEAN] == 0.5 and not steps.unknown(report.metrics)


def test_rewards_at_their_bounds_have_a_mean_and_a_variance() -> None:
    made = [sample(i, reward, []) for i, reward in enumerate((1e9, -1e9, 1e9, 0.0))]
    group = CompleteGroup("g00000000", tuple(Member(t, i) for i, t in enumerate(made)))
    prepared = prepare([group], Sources({"": AdvantageSamples(recipe_of())}), 0)
    advantages = prepared.batch.signal[prepared.batch.mask > 0]
    assert advantages.isfinite().all() and advantages.abs().max() > 0.1
