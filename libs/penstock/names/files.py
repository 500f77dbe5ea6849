"""Names of files that one program writes and another looks for."""

EXPORT_MARK = "penstock-export"
"""Lies in every model directory that an export wrote: only those are replaced by another export."""
