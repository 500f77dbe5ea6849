"""A reward model as a `Scorer` of the SDK: samples gather while a forward pass runs, the next pass takes them all.

All of the model's work is on one thread of its own, so the event loop never waits for it, and two passes never share
the device. Scores are kept by what was read: the same answer gets the very same score, whoever it shares a batch with
(a batch's composition changes the last bits), and a caller's repetition costs nothing.

Invariant (test name): every sample ends as a finite score or as Invalid with a reason.
"""

import asyncio
import collections
import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from penstock.sdk import Invalid, Result, Sample
from penstock.sdk.samples import as_result
from penstock.telemetry.waits import progress
from services.reward_model.model import CannotScore

logger = logging.getLogger(__name__)
AT_ONCE = 512
KEPT = 65_536


class Model(Protocol):
    """What is scored with (see `model.RewardModel`)."""

    def tokens(self, sample: Sample) -> tuple[int, ...]: ...

    def scores(self, sequences: list[tuple[int, ...]]) -> list[float]: ...


@dataclasses.dataclass
class _Waiting:
    sample: Sample
    answer: "asyncio.Future[Result]"


class ModelScorer:
    """Serves a model under a name; `run` must run beside the server."""

    bounds: tuple[float | None, float | None] = (None, None)

    def __init__(self, name: str, summary: str, model: Model) -> None:
        self.name, self.summary, self._model = name, summary, model
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._known: collections.OrderedDict[tuple[int, ...], Result] = collections.OrderedDict()

    async def score(self, sample: Sample) -> Result:
        """See `penstock.sdk.rewards.Scorer`; the caller's deadline is the limit."""
        waiting = _Waiting(sample, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def run(self) -> None:
        """Scores whatever has gathered, for ever. A failure of the model itself ends it, and with it the process."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="reward-model") as thread:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < AT_ONCE and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                batch = [w for w in batch if not w.answer.done()]  # its caller went away
                results = await loop.run_in_executor(thread, self._judge, [w.sample for w in batch])
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(result)
                progress()

    def _judge(self, samples: list[Sample]) -> list[Result]:
        """Runs on the model's thread."""
        read = [self._read(sample) for sample in samples]
        new = list(dict.fromkeys(r for r in read if not isinstance(r, Invalid) and r not in self._known))
        fresh: dict[tuple[int, ...], Result] = {}
        if new:
            try:
                fresh = dict(zip(new, map(as_result, self._model.scores(new)), strict=True))
            except torch.OutOfMemoryError as error:
                logger.error("%d answers do not fit into memory: %s", len(new), error)
                fresh = dict.fromkeys(
                    new, Invalid(f"out of memory; serve with a smaller --batch-tokens: {error}"[:300])
                )
        results = [r if isinstance(r, Invalid) else fresh.get(r) or self._known[r] for r in read]
        self._known.update((tokens, result) for tokens, result in fresh.items() if not isinstance(result, Invalid))
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return results

    def _read(self, sample: Sample) -> tuple[int, ...] | Invalid:
        try:
            return self._model.tokens(sample)
        except CannotScore as error:
            return Invalid(str(error)[:300])
        except Exception as error:  # somebody's template on somebody's words: its failure is this sample's
            logger.warning("a sample cannot be rendered", exc_info=error, extra={"sample": sample.id})
            return Invalid(f"the chat template raised {type(error).__name__}: {error}"[:300])
