"""Which rank publishes which tensor, where several could: the next one goes to whoever has the fewest bytes so far.

Every rank deals alike, without a message.
"""


class Owners:
    """Ranks of equal claims, by number."""

    def __init__(self, ranks: int) -> None:
        self._bytes = [0] * ranks

    def next(self, size: int) -> int:
        """Whose the next tensor, of `size` bytes, is."""
        owner = min(range(len(self._bytes)), key=self._bytes.__getitem__)
        self._bytes[owner] += size
        return owner
