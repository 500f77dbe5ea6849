"""Which receivers take a version that is on trial. Pure.

Invariants (test names): there are never more than `replicas`; whoever is one stays one while it watches; one that is
gone is replaced by another that watches.
"""

from collections import Counter


class Canaries:
    """Of one store. replicas: how many there are to be, as far as so many watch."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._watching: Counter[str] = Counter()
        self._chosen: list[str] = []

    def come(self, receiver: str) -> None:
        """A receiver watches, be it with a second stream."""
        self._watching[receiver] += 1

    def leave(self, receiver: str) -> None:
        """One of its streams has ended."""
        self._watching -= Counter([receiver])

    def are(self, receiver: str) -> bool:
        """Whether a receiver is one."""
        return receiver in self.chosen()

    def chosen(self) -> list[str]:
        """All of them."""
        self._chosen = [name for name in self._chosen if name in self._watching]
        others = sorted(name for name in self._watching if name not in self._chosen)
        self._chosen += others[: max(0, self._replicas - len(self._chosen))]
        return self._chosen
