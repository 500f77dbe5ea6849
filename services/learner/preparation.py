"""A batch of groups as training samples with advantages, and what there is to say about it. Runs on rank 0."""

import collections
import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np
import torch

from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.advantage_stage import AdvantageStage
from services.learner.assembly import CompleteGroup
from services.learner.batch import Batch, Sample


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A batch, the trajectories it was made of, and metrics that they alone determine (names rl.*)."""

    batch: Batch
    trajectories: list[pb.Trajectory]
    metrics: dict[str, float]


def prepare(groups: Sequence[CompleteGroup], stage: AdvantageStage | None, version: int) -> Prepared:
    """The batch of `groups`, to be trained on weights of `version`; `stage` is None for supervised training."""
    members = [(i, m.trajectory) for i, g in enumerate(groups) for m in g.usable]
    trajectories = [t for _, t in members]
    lengths = [sum(t.loss_mask) for t in trajectories]
    advantages = torch.zeros(len(members), dtype=torch.float64)
    if stage is not None:
        advantages = stage.advantages(
            torch.tensor([t.reward for t in trajectories], dtype=torch.float64),
            torch.tensor([i for i, _ in members]),
            torch.ones(len(members), dtype=torch.bool),
            torch.tensor(lengths),
        )
    samples = [
        Sample(
            tokens=from_int32s(t.tokens),
            loss_mask=np.frombuffer(t.loss_mask, np.uint8),
            behaviour_logprobs=from_float32s(t.logprobs),
            advantage=float(advantage),
            group=group,
        )
        for (group, t), advantage in zip(members, advantages.tolist(), strict=True)
    ]
    metrics = _metrics(groups, trajectories, lengths, version, stage is not None)
    return Prepared(Batch.from_samples(samples), trajectories, metrics)


def _metrics(
    groups: Sequence[CompleteGroup],
    trajectories: Sequence[pb.Trajectory],
    lengths: Sequence[int],
    version: int,
    scored: bool,
) -> dict[str, float]:
    ages = [g.age(version) for g in groups]
    drawn = [sum(m.trajectory.loss_mask) for g in groups for m in g.members]
    metrics = {
        "rl.samples.trained": float(len(trajectories)),
        "rl.tokens.trained": float(sum(t.token_count for t in trajectories)),
        "rl.tokens.generated": float(sum(drawn)),
        "rl.completion.length.mean": statistics.fmean(lengths),
        "rl.completion.length.max": float(max(lengths)),
        "rl.staleness.mean": statistics.fmean(ages),
        "rl.staleness.max": float(max(ages)),
    }
    if scored:
        rewards = [t.reward for t in trajectories]
        truncated = [t.outcome.status == pb.Outcome.STATUS_TRUNCATED for t in trajectories]
        metrics["rl.reward.mean"] = statistics.fmean(rewards)
        metrics["rl.reward.std"] = statistics.pstdev(rewards)
        metrics["rl.completion.truncated"] = statistics.fmean(truncated)
        parts: dict[str, list[float]] = collections.defaultdict(list)
        for t in trajectories:
            for component in t.components:
                parts[component.name].append(component.value)
        metrics |= {f"rl.reward.component.{name}": statistics.fmean(values) for name, values in parts.items()}
    return metrics
