"""`guess_number`: find a number by bisection, in as few turns as possible. The smallest multi-turn environment.

A row is `{"low": 1, "high": 64}`, both optional; the seed chooses the number. The reward is 1 for a guess in the fewest
turns that bisection needs at worst, less for each turn more, 0 for not finding it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from penstock.sdk import BadRow, Environment, Message, Scored, Turn

_NUMBER = re.compile(r"-?\d{1,12}")


class GuessNumber(Environment):
    """The model guesses; the environment says higher or lower."""

    summary = "Guess a number; the answers are 'higher' and 'lower'."
    max_turns = 16

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        """Chooses the number."""
        low, high = row.get("low", 1), row.get("high", 64)
        if not (isinstance(low, int) and isinstance(high, int) and low < high):
            raise BadRow(f"low and high must be integers with low < high, not {low!r} and {high!r}")
        self._number = random.Random(seed).randint(low, high)
        self._fewest = (high - low + 1).bit_length()
        self._turns = 0
        return [Message("user", f"guess a number from {low} to {high}")]

    def step(self, action: Message, finish_reason: str) -> Turn:
        """Judges a guess: the first number in the model's turn."""
        self._turns += 1
        found = _NUMBER.search(action.content)
        guess = int(found.group()) if found else None
        if guess == self._number:
            wasted = max(0, self._turns - self._fewest)
            return Turn(done=True, result=Scored(max(0.1, 1.0 - 0.1 * wasted), {"turns": float(self._turns)}))
        so_far = Scored(0.0, {"turns": float(self._turns)})  # what the episode is worth if it is cut off here
        if self._turns >= self.max_turns:
            return Turn(done=True, result=so_far)
        hint = "write a number" if guess is None else "higher" if guess < self._number else "lower"
        return Turn([Message("user", hint)], result=so_far)
