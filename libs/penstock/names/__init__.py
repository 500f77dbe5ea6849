"""What things of a run are called: streams, subjects, groups, marks. Built and parsed here and nowhere else.

A library of its own, without NATS, because the ledger reads names too and stays pure.
"""

from penstock.names.files import EXPORT_MARK
from penstock.names.groups import evaluation_group, group_number, training_group
from penstock.names.run import ENDS, LedgerKind, RunNames, TaskKind, family, ledger_key, log_key, task_key, token

__all__ = [
    "ENDS",
    "EXPORT_MARK",
    "LedgerKind",
    "RunNames",
    "TaskKind",
    "evaluation_group",
    "family",
    "group_number",
    "ledger_key",
    "log_key",
    "task_key",
    "token",
    "training_group",
]
