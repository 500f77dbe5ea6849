"""What is said of a log of samples that has little room left, or none. Pure."""

from penstock.recipes.sections import Limits

SCARCE = 0.8
"""The share of the log's room from which on people are told."""


def full_log(limits: Limits) -> str:
    """Why a run cannot go on whose log has no room, and what helps."""
    kept = (
        ", all of which limits.keep_log keeps: set it to false" if limits.keep_log else " since the oldest checkpoint"
    )
    return (
        f"the log of samples has no room: limits.log_bytes is {limits.log_bytes} bytes{kept}"
        f"{', or' if limits.keep_log else ':'} raise limits.log_bytes, and the same command goes on"
    )


def scarce_log(limits: Limits, fill: float) -> str:
    """What is to be said of a log that nobody trims and that is filled so far; empty while there is nothing to say."""
    if fill < SCARCE or not limits.keep_log:
        return ""
    return (
        f"the log of samples is {fill:.0%} full (limits.log_bytes is {limits.log_bytes} bytes, "
        f"and limits.keep_log keeps all of it): the run ends when it is full"
    )
