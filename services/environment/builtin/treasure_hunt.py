"""`treasure_hunt`: a text game. Rooms in a grid, a key in one, a locked chest in another; open the chest in few turns.

A row is `{"width": 3, "height": 3, "max_turns": 20}`, all optional; the seed places player, key and chest. The model is
told what it sees and writes one command a turn: `go north`, `go east`, `go south`, `go west`, `take key`, `open chest`;
what is around the command does not matter, the last one counts. The reward is 1 for the shortest way, its length over
the turns taken otherwise, a quarter for the key alone, 0 for neither: each turn that is no use costs.

Invariant (test name): the shortest way earns exactly 1 from every start, and no way earns more.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from penstock.sdk import BadRow, Environment, Message, Scored, Turn

_COMMAND = re.compile(r"\b(go (?:north|east|south|west)|take key|open chest)\b", re.IGNORECASE)
_WAYS = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
KEY_ALONE = 0.25
LARGEST, MOST_TURNS = 10, 64

Room = tuple[int, int]


class TreasureHunt(Environment):
    """The model explores; the environment describes."""

    summary = "A text game: find the key, then the chest, in few turns."
    max_turns = MOST_TURNS

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        """Lays the rooms out."""
        self._width = _whole(row, "width", 3, 1, LARGEST)
        self._height = _whole(row, "height", 3, 1, LARGEST)
        self._limit = _whole(row, "max_turns", 20, 3, MOST_TURNS)
        if self._width * self._height < 2:
            raise BadRow("width x height must be at least 2 rooms, so that there is a way to go")
        chance = random.Random(seed)
        rooms = [(x, y) for x in range(self._width) for y in range(self._height)]
        self._here, self._key, self._chest = chance.choice(rooms), chance.choice(rooms), chance.choice(rooms)
        self._shortest = _distance(self._here, self._key) + _distance(self._key, self._chest) + 2
        if self._shortest > self._limit:
            raise BadRow(f"max_turns is {self._limit}; the shortest way takes {self._shortest} turns")
        self._has_key, self._turns = False, 0
        rules = (
            "Find the key, then open the chest. Commands: go north, go east, go south, go west, take key, open chest."
        )
        return [Message("user", f"{rules}\n{self._sight()}")]

    def step(self, action: Message, finish_reason: str) -> Turn:
        """Carries out the last command of the model's turn."""
        self._turns += 1
        found = _COMMAND.findall(action.content)
        if not found:
            said = "That is no command."
        else:
            verb, _, what = found[-1].lower().partition(" ")
            if verb == "open" and self._here == self._chest and self._has_key:
                return Turn(done=True, result=self._worth(self._shortest / self._turns))
            said = self._go(what) if verb == "go" else self._take() if verb == "take" else self._locked()
        so_far = self._worth(KEY_ALONE if self._has_key else 0.0)  # if the episode is cut off here
        if self._turns >= self._limit:
            return Turn(done=True, result=so_far)
        return Turn([Message("user", f"{said}\n{self._sight()}")], result=so_far)

    def _go(self, way: str) -> str:
        x, y = self._here[0] + _WAYS[way][0], self._here[1] + _WAYS[way][1]
        if not (0 <= x < self._width and 0 <= y < self._height):
            return "There is a wall."
        self._here = (x, y)
        return f"You go {way}."

    def _take(self) -> str:
        if self._has_key or self._here != self._key:
            return "There is no key here."
        self._has_key = True
        return "You have the key."

    def _locked(self) -> str:
        return "The chest is locked." if self._here == self._chest else "There is no chest here."

    def _sight(self) -> str:
        x, y = self._here
        doors = [w for w, (dx, dy) in _WAYS.items() if 0 <= x + dx < self._width and 0 <= y + dy < self._height]
        things = ["a key"] if self._here == self._key and not self._has_key else []
        things += ["a chest"] if self._here == self._chest else []
        return f"Doors: {', '.join(doors)}. Here: {' and '.join(things) or 'nothing'}."

    def _worth(self, reward: float) -> Scored:
        return Scored(reward, {"turns": float(self._turns), "key": float(self._has_key)})


def _distance(a: Room, b: Room) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _whole(row: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = row.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRow(f"{key} must be a whole number from {low} to {high}, not {value!r}")
    return value
