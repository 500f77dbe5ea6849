"""What is said of a log of samples that has little room left, or none. Pure."""

from penstock.recipes.sections import Limits

SCARCE = 0.8
"""The share of the log's room from which on people are told."""


def full_log(limits: Limits) -> str:
    """Why a run cannot go on whose log has no room, and what helps."""
    held = f"the log of samples has no room: limits.log_bytes is {limits.log_bytes} bytes, "
    if limits.keep_log:
        return f"{held}all of which limits.keep_log keeps; set it to false or raise limits.log_bytes, and go on"
    return f"{held}which the samples since the oldest checkpoint fill; raise limits.log_bytes, and go on"


def scarce_log(limits: Limits, fill: float) -> str:
    """What is to be said of a log that nobody trims and that is filled so far; empty while there is nothing to say."""
    if fill < SCARCE or not limits.keep_log:
        return ""
    return (
        f"the log of samples is {fill:.0%} full (limits.log_bytes is {limits.log_bytes} bytes, "
        f"and limits.keep_log keeps all of it): the run ends when it is full"
    )
