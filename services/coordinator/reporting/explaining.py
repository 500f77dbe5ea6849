"""Joins the waits of all services into one sentence. Pure.

A chain ends at the wait nobody else explains: if the learner waits for rollout and rollout waits for generation, what
generation waits for (or that it is unreachable) is the reason. Waits can go in a circle (an evaluation that a reward
keeps from ending holds the engines that all others wait for), so what scores and plays is told beside a service's
longest wait. Whether a wait is that of a healthy service, listening
for what may come, is said by who waits (`idle`).
"""

import statistics
import time
from collections.abc import Mapping, Sequence

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.diagnostics.v1 import diagnostics_pb2
from penstock.telemetry import steps
from penstock.telemetry.waits import ITSELF
from penstock.trajectory.v1 import trajectory_pb2 as pb_trajectory

STEPS = 10
"""By which it is judged whether groups teach something."""
ENDS = ("reward ", "environment ")
"""How waits on what scores and plays begin."""
ORDER = ("learner", "rollout", "gateway", "generation", "environment", "reward", "weight_sync", "nats")


def explain(services: Sequence[pb.ServiceWaits], now: float | None = None) -> str:
    """One sentence: who waits for what on whom, from the learner down to the end of the chain."""
    at = time.time() if now is None else now
    parts = [f"{s.service} does not answer ({s.unreachable.splitlines()[0][:160]})" for s in services if s.unreachable]
    for service in sorted(services, key=_rank):
        for wait in _told(service):
            seconds = at - wait.since.ToNanoseconds() / 1e9
            if wait.on == ITSELF:
                parts.append(f"{service.service} computes {wait.what} since {seconds:.0f} s")
            else:
                parts.append(f"{service.service} waits for {wait.what} (on {wait.on}, {seconds:.0f} s)")
    return "; ".join(parts) if parts else "nothing waits: every service is working"


def dead_groups(reports: Mapping[int, pb_trajectory.StepReport]) -> str:
    """What is to be said where most groups of the newest STEPS steps taught nothing; empty where most did."""
    shares = [r.metrics[steps.GROUPS_DEAD] for _, r in sorted(reports.items()) if steps.GROUPS_DEAD in r.metrics]
    share = statistics.fmean(shares[-STEPS:]) if shares else 0.0
    if share <= 0.5:
        return ""
    over = len(shares[-STEPS:])
    return f"the tasks are too easy or too hard: {share:.0%} of the groups of the last {over} steps taught nothing"


def computes(services: Sequence[pb.ServiceWaits], now: float | None = None) -> bool:
    """Whether somebody is at work, within the time that it may take."""
    at = time.time() if now is None else now
    waits = [wait for service in services for wait in service.waits if wait.on == ITSELF]
    return any(not wait.HasField("deadline") or wait.deadline.ToNanoseconds() / 1e9 > at for wait in waits)


def _rank(service: pb.ServiceWaits) -> int:
    return next((i for i, name in enumerate(ORDER) if service.service.startswith(name)), len(ORDER))


def _told(service: pb.ServiceWaits) -> list[diagnostics_pb2.Wait]:
    """The longest wait of a service, and the longest on each that scores or plays: no other wait explains those."""
    real = sorted((w for w in service.waits if not w.idle), key=lambda w: w.since.ToNanoseconds())
    told = real[:1]
    for wait in real[1:]:
        if wait.on.startswith(ENDS) and all(wait.on != other.on for other in told):
            told.append(wait)
    return told
