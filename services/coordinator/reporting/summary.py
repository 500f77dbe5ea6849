"""summary.json as a function of the ledger, the totals of its reports and the last look at the other services. Pure."""

import collections
import dataclasses
import statistics
from typing import Any

from penstock.ledger import Ledger
from penstock.showing.changes import changes
from penstock.weights.v1 import weights_pb2
from services.coordinator.reporting.totals import Totals


@dataclasses.dataclass
class Services:
    """What the last look at the other services said.

    `looks` counts looks at engines that answered, `busy_looks` those that found one of them generating.
    """

    tasks_pending: int = 0
    serving_step: int = 0
    versions: weights_pb2.ListVersionsResponse | None = None
    busy_looks: int = 0
    looks: int = 0


def summarise(ledger: Ledger, totals: Totals, services: Services, now: float) -> dict[str, Any]:
    """The numbers of a run; the counts add up: admitted = trained + filtered + expired + failed + in_flight."""
    versions = services.versions
    wall = totals.seconds
    passed = (totals.ended or now) - (totals.began or now)
    return {
        "steps": totals.steps,
        "wall_seconds": round(wall, 3),
        "reward_first": statistics.fmean(totals.first) if totals.first else None,
        "reward_last": statistics.fmean(totals.last) if totals.last else None,
        "eval": [{"step": e.step, "version": e.step, **e.metrics} for _, e in sorted(ledger.evaluations.items())],
        "samples": {
            name: getattr(ledger.samples, name)
            for name in ("admitted", "trained", "filtered", "expired", "failed", "in_flight")
        },
        "failures": failures(ledger, totals),
        "changes": changes(ledger.recipes),
        "tokens": {"generated": int(totals.generated), "trained": int(totals.trained)},
        "staleness": {"mean": totals.staleness / max(1, totals.steps), "max": totals.stalest},
        "versions_published": newest_version(versions),
        "weight_sync": {
            "full_bytes": versions.full_bytes if versions else 0,
            "sent_bytes": versions.sent_bytes if versions else 0,
            "seconds_p50": versions.transfer_median.ToNanoseconds() / 1e9 if versions else None,
            "pause_seconds_p50": versions.pause_median.ToNanoseconds() / 1e9 if versions else None,
        },
        "generator_utilisation": services.busy_looks / max(1, services.looks),
        "learner_utilisation": totals.training / max(wall, 1e-9),
        "tokens_per_second": {
            "generate": totals.generated / max(passed, 1e-9),
            "train": totals.trained / max(wall, 1e-9),
        },
    }


def failures(ledger: Ledger, totals: Totals) -> dict[str, int]:
    """The failed samples by kind; they add up to all that failed. Those of a batch are known with its step's report;
    until then they are NOT_REPORTED_YET."""
    found = collections.Counter(ledger.failures) + totals.failed
    found["NOT_REPORTED_YET"] = ledger.samples.failed - found.total()
    return {kind: count for kind, count in found.items() if count > 0}


def newest_version(versions: weights_pb2.ListVersionsResponse | None) -> int | None:
    """The newest version that became READY, as weight_sync says; None if it was never asked or has none.

    Versions are published one after the other without gaps, so this is also how many were.
    """
    ready = (
        weights_pb2.VERSION_STATE_READY,
        weights_pb2.VERSION_STATE_VERIFIED,
        weights_pb2.VERSION_STATE_REJECTED,
        weights_pb2.VERSION_STATE_RETIRED,
    )
    found = [v.version.step for v in versions.versions if v.state in ready] if versions else []
    return max(found, default=None)
