"""Rewards and environments that misbehave in every way, for the tests of what hosts them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

from penstock.sdk.environments import BadRow, Environment, Turn
from penstock.sdk.rewards import reward
from penstock.sdk.samples import Message, Sample


@reward(timeout=0.6, minimum=-1.0, maximum=1.0)
def hostile(sample: Sample) -> Any:
    """Does what the completion says."""
    match sample.completion:
        case "nan":
            return float("nan")
        case "inf":
            return float("inf")
        case "none":
            return None
        case "text":
            return "1.0"
        case "raise":
            raise KeyError("answer")
        case "hang":
            time.sleep(5)
        case "die":
            os._exit(7)
        case "exit":
            exit()
        case "stop":
            raise StopIteration
        case "interrupt":
            raise KeyboardInterrupt
        case "cancel":
            raise asyncio.CancelledError
        case "memory":
            return float(len(bytearray(1 << 36)))
        case "outside":
            return 3.0
        case "print":
            os.write(1, b"noise on standard output\n")
    return 0.5


class HostileEnvironment(Environment):
    """Does what the action says."""

    summary = "for tests"
    max_turns = 4

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        """`{"bad": true}` does not fit, `{"raise": true}` raises."""
        if row.get("bad"):
            raise BadRow("bad must not be set")
        if row.get("raise"):
            raise RuntimeError("no")
        self.steps = 0
        return [Message("user", f"pid {os.getpid()}")]

    def step(self, action: Message, finish_reason: str) -> Any:
        """Counts, unless told to do worse."""
        self.steps += 1
        match action.content:
            case "raise":
                raise RuntimeError("broken game")
            case "hang":
                time.sleep(5)
            case "die":
                os._exit(7)
            case "nan":
                return Turn(done=True, result=float("nan"))
            case "win":
                return Turn(done=True, result=1.0)
            case "nothing":
                return Turn(done=True)
            case "nonsense":
                return 7
        return Turn([Message("user", str(self.steps))])
