"""`@reward`: a function becomes a reward that can be served.

    @reward
    def brevity(sample: Sample) -> float:
        return 1.0 / (1 + len(sample.completion))

The function may be a coroutine, which runs on the event loop, or plain, which runs in a thread and may block; so may an
object with `__call__`. One that ends the program (`exit()`, `os._exit`, StopIteration) has failed for its sample alone
(`ending.py`). A thread cannot be killed: code that may hang or crash belongs into a worker process
(`penstock.sdk.hosting.isolation`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, overload

from penstock.sdk.ending import in_thread, not_ending
from penstock.sdk.samples import Invalid, Result, Sample, as_result

logger = logging.getLogger(__name__)
DEFAULT_SECONDS = 30.0


class Scorer(Protocol):
    """What the reward service serves."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def bounds(self) -> tuple[float | None, float | None]: ...

    async def score(self, sample: Sample) -> Result:
        """Never raises and never takes longer than its own limit."""
        ...


@dataclass(frozen=True)
class Reward:
    """A reward function with its limits; call it like the function itself.

    Attributes:
        timeout: seconds for one sample.
        bounds: least and greatest value, None where unknown; a value outside is invalid.
    """

    function: Callable[[Sample], Any]
    name: str
    summary: str
    timeout: float
    bounds: tuple[float | None, float | None]

    def __call__(self, sample: Sample) -> Any:
        return self.function(sample)

    async def score(self, sample: Sample) -> Result:
        """Scores one sample; an exception, a timeout or a value that is no finite number is `Invalid`."""
        try:
            async with asyncio.timeout(self.timeout) as limit:
                if inspect.iscoroutinefunction(self.function):
                    returned = self.function(sample)
                else:
                    returned = await in_thread(self.function, sample)
                if inspect.isawaitable(returned):
                    with not_ending():
                        returned = await returned
        except TimeoutError as error:
            if limit.expired():
                return Invalid(f"{self.name} took longer than {self.timeout:g} s")
            return self._failed(error, sample)
        except BaseException as error:  # somebody's code: its failure is this sample's, not the service's
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            return self._failed(error, sample)
        return self.checked(as_result(returned))

    def checked(self, result: Result) -> Result:
        """Invalid where the value is outside the bounds."""
        if isinstance(result, Invalid):
            return result
        low, high = self.bounds
        if (low is not None and result.value < low) or (high is not None and result.value > high):
            return Invalid(f"{self.name} returned {result.value:g}, outside [{low}, {high}]")
        return result

    def _failed(self, error: BaseException, sample: Sample) -> Invalid:
        logger.warning("a reward raised", exc_info=error, extra={"reward": self.name, "sample": sample.id})
        return Invalid(f"{self.name} raised {type(error).__name__}: {error}"[:300])


@overload
def reward(function: Callable[[Sample], Any], /) -> Reward: ...


@overload
def reward(
    *,
    name: str | None = None,
    timeout: float = DEFAULT_SECONDS,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Callable[[Callable[[Sample], Any]], Reward]: ...


def reward(
    function: Callable[[Sample], Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float = DEFAULT_SECONDS,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Makes a `Reward` of a function from `Sample` to a number, `Scored` or `Invalid`.

    Args:
        name: what recipes call it; the function's name by default.
        timeout: seconds for one sample.
        minimum, maximum: bounds of the value.
    """

    def make(inner: Callable[[Sample], Any]) -> Reward:
        summary = (inspect.getdoc(inner) or "").partition("\n")[0]
        title = name or str(getattr(inner, "__name__", type(inner).__name__))
        return Reward(inner, title, summary, timeout, (minimum, maximum))

    return make(function) if function is not None else make
