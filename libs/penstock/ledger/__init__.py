"""The accounting of a run: a pure fold over the ledger stream. No I/O."""

from penstock.ledger.state import Fate, Group, Ledger, LedgerError, SampleCounts

__all__ = ["Fate", "Group", "Ledger", "LedgerError", "SampleCounts"]
