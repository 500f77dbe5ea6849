"""The accounting of a run: a pure fold over the ledger stream. No I/O."""

from penstock.ledger.samples import check_against_admission, explained
from penstock.ledger.snapshot import BadSnapshot, Fold, dump, load
from penstock.ledger.state import Fate, Group, Ledger, LedgerError, SampleCounts

__all__ = [
    "BadSnapshot",
    "Fate",
    "Fold",
    "Group",
    "Ledger",
    "LedgerError",
    "SampleCounts",
    "check_against_admission",
    "dump",
    "explained",
    "load",
]
