"""Tasks by number: what a row says that was made of a library's name instead of a file.

Invariant (test name): no task that is trained on is measured with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.sdk.environments import BadRow

HELD_OUT = 1 << 24
"""The first seed of tasks that are measured with; those that are trained on have smaller ones."""


def number_of(row: Mapping[str, Any]) -> int:
    """The task's number. Raises BadRow."""
    number = row.get("index")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < HELD_OUT:
        raise BadRow(f"a row needs index, a number from 0 to {HELD_OUT - 1}; {sorted(row)} has {number!r:.40}")
    return number


def is_held_out(row: Mapping[str, Any]) -> bool:
    """Whether the task is measured with."""
    return row.get("held_out") is True


def seed_of(row: Mapping[str, Any]) -> int:
    """The seed of a task whose number is all that there is of it. Raises BadRow."""
    return number_of(row) + (HELD_OUT if is_held_out(row) else 0)
