"""A run under way as people see it."""

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.showing.standing import standing
from penstock.telemetry import metrics, steps
from services.coordinator.coordinator import Coordinator


def run(c: Coordinator) -> pb.Run:
    """A run as it stands now."""
    services = c.watch.services
    run = standing(c.recipe, c.ledger)
    run.state, run.reason = c.state.value, c.state.reason or c.state.paused_for or c.recorder.problem
    run.tasks_pending, run.stall = services.tasks_pending, c.watch.stall
    run.alerts.extend([*([c.watch.scarce] if c.watch.scarce else []), *(str(a) for a in c.alerts.standing)])
    run.members.extend(c.peers.members)
    run.serving_version.step = services.serving_step
    run.metrics[metrics.ENTRIES_QUARANTINED] = c.quarantined
    run.metrics[steps.GENERATED_PER_SECOND] = c.log.tokens_per_second()
    return run
