"""Packing of variable-length sequences into balanced, token-budgeted micro-batches, those that begin alike folded into
trees; pure, without torch."""

from penstock.packing.balance import Plan, SequenceTooLong, check_fits, pack, work_of
from penstock.packing.folding import Segment, Tree, fold
from penstock.packing.together import Item, Weighing, alone, together, tree_of

__all__ = [
    "Item",
    "Plan",
    "Segment",
    "SequenceTooLong",
    "Tree",
    "Weighing",
    "alone",
    "check_fits",
    "fold",
    "pack",
    "together",
    "tree_of",
    "work_of",
]
