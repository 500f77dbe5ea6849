"""Where a completion ends because it wrote one of the recipe's stop texts.

Engines are given tokens and give tokens; text is the rollout's business. So the worker reads along: the first token by
which a stop text is complete is kept, what the engine drew behind it is not, and the engine is told to stop.
"""

from collections.abc import Callable, Sequence


class StopTexts:
    """text: how tokens are read. Each token of a text has at least one of its UTF-8 bytes, so a text that ends among
    the new tokens begins at most its length in bytes before them: no more is read again."""

    def __init__(self, stops: Sequence[str], text: Callable[[Sequence[int]], str]) -> None:
        self._stops, self._text = tuple(stops), text
        self._reach = max((len(stop.encode()) for stop in stops), default=0)

    def end(self, before: Sequence[int], new: Sequence[int]) -> int | None:
        """How many of the `new` tokens behind those of `before` belong to the completion; None if it goes on."""
        if not self._stops:
            return None
        seen = list(before[-self._reach :])
        if not self._written([*seen, *new]):
            return None
        return next(n for n in range(1, len(new) + 1) if self._written([*seen, *new[:n]]))

    def _written(self, tokens: Sequence[int]) -> bool:
        text = self._text(tokens)
        return any(stop in text for stop in self._stops)
