"""A batch of groups as training samples with advantages, and what there is to say about it. Runs on rank 0."""

import collections
import dataclasses
import statistics
from collections.abc import Sequence

from penstock.ledger import Group
from penstock.telemetry import steps
from penstock.trajectories import contexts, trained_tokens
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.sources import Sources
from services.learner.interface.batch import Batch
from services.learner.interface.group import CompleteGroup
from services.learner.leader.failures import failure_metrics


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A batch, the trajectories it was made of, and metrics that they alone determine (names rl.*). schedule: with
    which it was recorded, if it was with one."""

    batch: Batch
    trajectories: list[pb.Trajectory]
    metrics: dict[str, float]
    schedule: pb.Schedule | None = None


def prepare(
    groups: Sequence[CompleteGroup],
    sources: Sources,
    version: int,
    failed: Sequence[Group] = (),
    schedule: pb.Schedule | None = None,
) -> Prepared:
    """The batch of `groups`, to be trained on weights of `version`; `failed`: groups that failed since the last."""
    kept = [sources.kept(g) for g in groups]
    trained = [m.trajectory for g in kept for m in g.usable]
    metrics = _metrics(groups, trained, version) | failure_metrics(groups, failed)
    batch = sources.batch(kept, version)
    if batch.routes is not None:
        metrics[steps.ROUTES_KNOWN] = batch.routes_known
    return Prepared(batch, trained, metrics, schedule)


def _metrics(groups: Sequence[CompleteGroup], trained: Sequence[pb.Trajectory], version: int) -> dict[str, float]:
    """Counts and lengths are of what is trained, rewards of all that was scored: leaving out must not flatter them."""
    trajectories = [m.trajectory for g in groups for m in g.usable]
    lengths = [trained_tokens(t) for t in trained]
    ages = [g.age(version) for g in groups]
    drawn = [trained_tokens(m.trajectory) for g in groups for m in g.members if m.trajectory.version_segments]
    metrics = {
        steps.SAMPLES_TRAINED: float(len(trained)),
        steps.SAMPLES_MASKED: float(len(trajectories) - len(trained)),
        steps.TOKENS_TRAINED: float(sum(each.token_count for t in trained for each in contexts(t))),
        steps.TOKENS_GENERATED: float(sum(drawn)),
        steps.LENGTH_MEAN: statistics.fmean(lengths),
        steps.LENGTH_MAX: float(max(lengths)),
        steps.LENGTH_GAP: statistics.fmean(lengths) - statistics.fmean(drawn or lengths),
        steps.STALENESS_MEAN: statistics.fmean(ages),
        steps.STALENESS_MAX: float(max(ages)),
    }
    for age, count in collections.Counter(ages).items():
        metrics[steps.member(steps.STALENESS_SHARE, age)] = count / len(ages)
    truncated = [t.outcome.status == pb.Outcome.STATUS_TRUNCATED for t in trajectories]
    if any(truncated):
        metrics[steps.TRUNCATED] = statistics.fmean(truncated)
    if all(t.HasField("reward") for t in trajectories):
        rewards = [t.reward for t in trajectories]
        metrics[steps.REWARD_MEAN] = statistics.fmean(rewards)
        metrics[steps.REWARD_STD] = statistics.pstdev(rewards)
        metrics[steps.TRUNCATED] = statistics.fmean(truncated)
        parts: dict[str, list[float]] = collections.defaultdict(list)
        for t in trajectories:
            for component in t.components:
                parts[component.name].append(component.value)
        means = {name: statistics.fmean(values) for name, values in parts.items()}
        metrics |= steps.bounded(steps.REWARD_COMPONENT, means)
    by_source = collections.defaultdict(list)
    for t in trajectories:
        if t.HasField("reward"):
            by_source[t.source].append(t.reward)
    if len(by_source) > 1:
        means = {name: statistics.fmean(rewards) for name, rewards in by_source.items()}
        metrics |= steps.bounded(steps.REWARD_SOURCE, means)
    return metrics
