"""The accounting of a run: a pure fold over the ledger stream. No I/O."""

from penstock.ledger.samples import check_against_admission, explained
from penstock.ledger.state import Fate, Group, Ledger, LedgerError, SampleCounts

__all__ = ["Fate", "Group", "Ledger", "LedgerError", "SampleCounts", "check_against_admission", "explained"]
