"""Who of several is preferred for a key: rendezvous hashing (Thaler and Ravishankar, 1998). Pure.

Invariants (test names): adding one of n moves keys to the new one alone; removing one moves its own keys alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def preferred(key: str, instances: Iterable[str]) -> str:
    """The instance that `key` prefers, the same for every asker. Raises ValueError where there is none."""
    return max(instances, key=lambda instance: hashlib.blake2b(f"{key}|{instance}".encode()).digest())
