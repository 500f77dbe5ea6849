"""Packing of variable-length sequences into balanced, token-budgeted micro-batches; pure, without torch."""

from penstock.packing.balance import Plan, SequenceTooLong, pack, work_of

__all__ = ["Plan", "SequenceTooLong", "pack", "work_of"]
