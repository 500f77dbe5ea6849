"""What becomes of a stream's entry that must not be used: it is counted and listed, and everything goes on.

Streams keep what was written, so a restart meets a bad entry again: an end of the process would be one for good. An
entry is judged by its content and by the entries before it alone, so every reader sets aside the same ones.

Invariant (test name): an entry that is quarantined is counted, and changes nothing else.
"""

import logging
from collections import Counter, deque
from dataclasses import dataclass

from penstock.telemetry import metrics

logger = logging.getLogger(__name__)
LISTED = 1000
REASON_LENGTH = 500
_quarantined = metrics.counter(metrics.ENTRIES_QUARANTINED, "entries of a stream that were set aside", ["stream"])


class BadEntry(ValueError):
    """An entry that must not be used. The text names the field and the value."""


@dataclass(frozen=True)
class Quarantined:
    """One of them. `sequence`: in its stream."""

    stream: str
    subject: str
    sequence: int
    reason: str


class Quarantine:
    """The entries that one reader has set aside. `listed`: the newest of them; `counts`: all, by stream."""

    def __init__(self) -> None:
        self.listed: deque[Quarantined] = deque(maxlen=LISTED)
        self.counts: Counter[str] = Counter()

    def add(self, stream: str, subject: str, sequence: int, reason: object) -> None:
        """Sets an entry aside. `stream`: its kind: task, log or ledger."""
        text = str(reason)[:REASON_LENGTH]
        self.listed.append(Quarantined(stream, subject, sequence, text))
        self.counts[stream] += 1
        _quarantined.labels(stream).inc()
        logger.warning("entry %d of the %s is quarantined: %s", sequence, stream, text, extra={"subject": subject})
