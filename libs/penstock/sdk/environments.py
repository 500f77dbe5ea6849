"""`Environment`: the base class of multi-turn tasks, and its hosting in this process.

    class Guess(Environment):
        max_turns = 8
        def reset(self, row, seed): ...                    # -> the first messages
        def step(self, action, finish_reason): ...         # -> Turn

One instance is one episode. Methods may be coroutines or plain; plain ones run in a thread, one call at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.sdk.samples import FinishReason, Invalid, Message, Result, as_result

DEFAULT_SECONDS = 60.0


@dataclass(frozen=True)
class Turn:
    """The environment's answer to the model's turn.

    Attributes:
        messages: what the model sees next; empty when done.
        done: whether the episode is over.
        result: the reward so far: a number, `Scored`, `Invalid` or None where there is none yet. A rollout whose tokens
            or turns run out ends here and takes it; without one that sample has failed.
    """

    messages: Sequence[Message] = ()
    done: bool = False
    result: Result | float | None = None

    def checked(self) -> Turn:
        """The same turn with a result that is None, `Scored` or `Invalid`; an episode cannot end without one."""
        if self.result is None and not self.done:
            return self
        if self.result is None:
            return Turn(self.messages, True, Invalid("the episode ended without a reward"))
        return Turn(tuple(self.messages), self.done, as_result(self.result))


class BadRow(ValueError):
    """The data set's row is not what the environment expects; name the field in the text."""


class EpisodeLost(Exception):
    """The episode cannot go on: its code raised, hung, or its process died."""


class Environment:
    """Base class; see the module."""

    summary: str = ""
    max_turns: int = 16

    def reset(self, row: Mapping[str, Any], seed: int) -> Any:
        """Begins the episode; returns the first messages. Raise `BadRow` for a row that does not fit."""
        raise NotImplementedError

    def step(self, action: Message, finish_reason: FinishReason) -> Any:
        """Plays the model's turn; returns a `Turn`."""
        raise NotImplementedError

    def close(self) -> Any:
        """Releases what the episode holds. Called once."""


class Host(Protocol):
    """Where the episodes of one environment live: this process, or worker processes."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def max_turns(self) -> int: ...

    async def reset(self, row: Mapping[str, Any], seed: int) -> tuple[str, Sequence[Message]]:
        """Opens an episode. Raises BadRow or EpisodeLost."""
        ...

    async def step(self, episode: str, action: Message, finish_reason: FinishReason) -> Turn:
        """Plays a turn. Raises EpisodeLost."""
        ...

    async def close(self, episode: str) -> None:
        """Ends an episode. Idempotent, never raises."""
        ...


@dataclass
class InProcess:
    """Episodes in this process: for environments that neither hang nor crash."""

    kind: type[Environment]
    name: str
    seconds: float = DEFAULT_SECONDS
    _open: dict[str, Environment] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def summary(self) -> str:
        """For `ListEnvironments`."""
        return self.kind.summary

    @property
    def max_turns(self) -> int:
        """Most turns of the model."""
        return self.kind.max_turns

    async def reset(self, row: Mapping[str, Any], seed: int) -> tuple[str, Sequence[Message]]:
        """See `Host`."""
        environment = self.kind()
        try:
            messages = await self._call(environment.reset, row, seed)
        except BaseException:  # nobody else would close what it has opened
            with contextlib.suppress(Exception):  # of what is half made; why it could not begin is what counts
                await self._call(environment.close)
            raise
        episode = str(next(self._numbers))
        self._open[episode] = environment
        return episode, tuple(messages)

    async def step(self, episode: str, action: Message, finish_reason: FinishReason) -> Turn:
        """See `Host`."""
        turn = await self._call(self._open[episode].step, action, finish_reason)
        if not isinstance(turn, Turn):
            raise EpisodeLost(f"{self.name}.step returned {type(turn).__name__}, not a Turn")
        return turn.checked()

    async def close(self, episode: str) -> None:
        """See `Host`."""
        environment = self._open.pop(episode, None)
        if environment is not None:
            try:
                await self._call(environment.close)
            except EpisodeLost:
                return

    async def _call(self, function: Any, *arguments: Any) -> Any:
        name = f"{self.name}.{function.__name__}"
        try:
            async with asyncio.timeout(self.seconds):
                if inspect.iscoroutinefunction(function):
                    return await function(*arguments)
                return await asyncio.to_thread(function, *arguments)
        except BadRow:
            raise
        except TimeoutError as error:
            raise EpisodeLost(f"{name} took longer than {self.seconds:g} s") from error
        except Exception as error:  # somebody's code
            raise EpisodeLost(f"{name} raised {type(error).__name__}: {error}"[:300]) from error
