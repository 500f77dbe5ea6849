"""The summary's failures add up to the failed samples, whole groups and members of batches together."""

import datetime

from penstock.ledger import Ledger
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.reporting.summary import Services, summarise
from services.coordinator.reporting.totals import Totals

SIZE = 4


def admitted(ledger: Ledger, number: int) -> str:
    event = pb.LedgerEvent(group=f"g{number:08d}", admitted=pb.Admitted(group_size=SIZE))
    event.at.FromDatetime(datetime.datetime.now(datetime.UTC))
    ledger.apply_event(event, ledger.sequence + 1)
    return event.group


def test_failures_by_kind_add_up() -> None:
    ledger = Ledger()
    failed = pb.Failed(failures={"FAILURE_REWARD": 3})
    ledger.apply_event(pb.LedgerEvent(group=admitted(ledger, 0), failed=failed), 2)
    record = pb.BatchRecord(step=1)
    record.groups.add(group=admitted(ledger, 1), indices=[0, 2], log_sequences=[5, 6])
    ledger.apply_batch(record, 4)
    totals = Totals()
    told = summarise(ledger, totals, Services(), 0.0)
    assert told["failures"] == {"FAILURE_REWARD": 3, "OTHERS_OF_FAILED_GROUPS": 1, "NOT_REPORTED_YET": 2}
    metrics = {"rl.samples.failed.reward": 1.0, "rl.samples.failed.timeout": 1.0}
    ledger.apply_report(pb.StepReport(step=1, metrics=metrics), 5)
    totals.see(ledger.reports)
    told = summarise(ledger, totals, Services(), 0.0)
    assert told["failures"] == {"FAILURE_REWARD": 4, "OTHERS_OF_FAILED_GROUPS": 1, "FAILURE_TIMEOUT": 1}
    assert sum(told["failures"].values()) == told["samples"]["failed"] == 6
