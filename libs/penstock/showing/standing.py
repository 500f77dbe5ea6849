"""Where a run stands, as far as its recipe and its ledger say it. Pure."""

import datetime

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.ledger import Ledger
from penstock.recipes import Recipe
from penstock.showing.changes import changes


def standing(recipe: Recipe, ledger: Ledger) -> pb.Run:
    """A run without its state: whoever shows it knows whether it goes on."""
    counts = ledger.samples
    newest = ledger.reports[max(ledger.reports)] if ledger.reports else None
    run = pb.Run(
        name=recipe.run,
        algorithm=recipe.algorithm.name,
        step=newest.step if newest else 0,
        max_steps=recipe.steps,
        samples=pb.SampleCounts(
            admitted=counts.admitted,
            trained=counts.trained,
            filtered=counts.filtered,
            expired=counts.expired,
            failed=counts.failed,
            in_flight=counts.in_flight,
        ),
        groups_in_flight=len(ledger.in_flight),
        groups_budget=recipe.groups_budget,
        evaluations=[e for _, e in sorted(ledger.evaluations.items())],
        changes=changes(ledger.recipes),
    )
    if newest:
        run.trained_version.CopyFrom(newest.version)
        for key, value in newest.metrics.items():
            run.metrics[key] = value
    if ledger.began is not None:
        run.started_at.FromDatetime(ledger.began)
    run.updated_at.FromDatetime(datetime.datetime.now(datetime.UTC))
    return run
