"""What people see of a run: the run as it stands, and its samples as text."""

import datetime

import numpy as np

from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.telemetry import metrics, steps
from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.coordinator import Coordinator


def run(c: Coordinator) -> pb.Run:
    """A run as it stands now."""
    ledger, services = c.ledger, c.watch.services
    counts = ledger.samples
    newest = ledger.reports[max(ledger.reports)] if ledger.reports else None
    run = pb.Run(
        name=c.recipe.run,
        state=c.state.value,
        reason=c.state.reason or c.recorder.problem,
        algorithm=c.recipe.algorithm.name,
        step=newest.step if newest else 0,
        max_steps=c.recipe.steps,
        samples=pb.SampleCounts(
            admitted=counts.admitted,
            trained=counts.trained,
            filtered=counts.filtered,
            expired=counts.expired,
            failed=counts.failed,
            in_flight=counts.in_flight,
        ),
        groups_in_flight=len(ledger.in_flight),
        groups_budget=c.recipe.groups_budget,
        tasks_pending=services.tasks_pending,
        stall=c.watch.stall,
        alerts=[*([c.watch.scarce] if c.watch.scarce else []), *(str(a) for a in c.alerts.standing)],
        members=c.peers.members,
        evaluations=[e for _, e in sorted(ledger.evaluations.items())],
    )
    if newest:
        run.trained_version.CopyFrom(newest.version)
        for key, value in newest.metrics.items():
            run.metrics[key] = value
    run.serving_version.step = services.serving_step
    if ledger.began is not None:
        run.started_at.FromDatetime(ledger.began)
    run.metrics[metrics.ENTRIES_QUARANTINED] = c.quarantined
    run.metrics[steps.GENERATED_PER_SECOND] = c.log.tokens_per_second()
    run.updated_at.FromDatetime(datetime.datetime.now(datetime.UTC))
    return run


def sample(t: trajectory_pb2.Trajectory, chat: ChatTokenizer) -> pb.Sample:
    """A trajectory as people read it, the completion cut into pieces by version."""
    tokens, logprobs = from_int32s(t.tokens), from_float32s(t.logprobs)
    start = t.loss_mask.find(1)
    start = len(tokens) if start < 0 else start
    result = pb.Sample(
        group=t.group,
        index=t.index,
        kind=t.kind,
        prompt=chat.text(tokens[:start].tolist()),
        completion=chat.text(tokens[start:].tolist()),
        outcome=t.outcome,
        ended_at=t.ended_at,
        traceparent=t.traceparent,
        components=t.components,
    )
    if t.HasField("reward"):
        result.reward = t.reward
    drawn = np.frombuffer(t.loss_mask, np.uint8) == 1
    for i, segment in enumerate(t.version_segments):
        last = i + 1 == len(t.version_segments)
        span = slice(segment.first, t.token_count if last else t.version_segments[i + 1].first)
        mean = float(logprobs[span][drawn[span]].mean()) if drawn[span].any() else 0.0
        result.pieces.add(text=chat.text(tokens[span].tolist()), step=segment.version.step, mean_logprob=mean)
    if t.version_segments:
        versions = [s.version.step for s in t.version_segments]
        result.oldest_step, result.newest_step = min(versions), max(versions)
    return result
