"""Rewards, environments and agents in worker processes: what hangs or crashes there costs one item, not the service."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.sdk.agents import AgentFailed, Endpoint, Task
from penstock.sdk.environments import DEFAULT_SECONDS, BadRow, EpisodeLost, Turn
from penstock.sdk.hosting.wire import (
    messages_from_json,
    messages_to_json,
    result_from_json,
    sample_to_json,
    task_to_json,
)
from penstock.sdk.hosting.worker_pool import START_SECONDS, Worker, WorkerFailed, Workers
from penstock.sdk.samples import FinishReason, Invalid, Message, Result, Sample


@dataclass(frozen=True)
class IsolatedReward:
    """A `Scorer` that runs `target` (`package.module:reward`) in worker processes. Make it with `load_reward`."""

    workers: Workers
    target: str
    name: str
    summary: str
    timeout: float
    bounds: tuple[float | None, float | None]

    async def score(self, sample: Sample) -> Result:
        """See `Scorer`. Time in the queue for a worker is not counted against the sample."""
        request = {"op": "score", "target": self.target, "sample": sample_to_json(sample)}
        async with self.workers.one() as worker:
            try:
                answer = await worker.call(request, seconds=self.timeout)
            except WorkerFailed as error:
                return Invalid(f"{self.name}: {error}")
        if "error" in answer:
            return Invalid(f"{self.name} raised {answer['error']}")
        return result_from_json(answer)


async def load_reward(workers: Workers, target: str, *, name: str | None = None) -> IsolatedReward:
    """Imports a reward in a worker, which tells its name and limits.

    Raises:
        ValueError: it cannot be imported or is not a reward.
    """
    about = await _load(workers, target)
    if "timeout" not in about:
        raise ValueError(f"{target} is not a reward (decorate the function with @reward)")
    low, high = about["bounds"]
    return IsolatedReward(workers, target, name or about["name"], about["summary"], about["timeout"], (low, high))


@dataclass(frozen=True)
class IsolatedAgent:
    """An `AgentHost` that runs `target` in worker processes, one agent in each. Make it with `load_agent`."""

    workers: Workers
    target: str
    name: str
    summary: str

    async def run(self, task: Task, endpoint: Endpoint, seconds: float) -> Result:
        """See `AgentHost`. Whoever waits for a worker waits within the same time; a caller that leaves kills it."""
        until = time.monotonic() + seconds
        fields = {"task": task_to_json(task), "base_url": endpoint.base_url, "key": endpoint.key}
        try:
            async with asyncio.timeout(seconds) as queue:
                async with self.workers.one() as worker:
                    queue.reschedule(None)
                    left = max(0.001, until - time.monotonic())
                    answer = await worker.call({"op": "run", "target": self.target, **fields}, seconds=left)
        except TimeoutError as error:
            raise AgentFailed(f"{self.name} found no free worker within {seconds:.0f} s") from error
        except WorkerFailed as error:
            raise AgentFailed(f"{self.name}: {error}") from error
        if "error" in answer:
            raise AgentFailed(f"{self.name} raised {answer['error']}")
        return result_from_json(answer)


async def load_agent(workers: Workers, target: str, *, name: str) -> IsolatedAgent:
    """Imports an agent in a worker.

    Raises:
        ValueError: it cannot be imported or is not an agent.
    """
    about = await _load(workers, target)
    if "client" not in about:
        raise ValueError(f"{target} is not an agent (decorate the function with @agent)")
    return IsolatedAgent(workers, target, name, about["summary"])


async def load_environment(
    workers: Workers, target: str, *, name: str, seconds: float = DEFAULT_SECONDS
) -> IsolatedEnvironment:
    """Imports an environment class in a worker.

    Raises:
        ValueError: it cannot be imported or is not an environment.
    """
    about = await _load(workers, target)
    if "max_turns" not in about:
        raise ValueError(f"{target} is not an environment")
    return IsolatedEnvironment(workers, target, name, about["summary"], about["max_turns"], seconds)


async def _load(workers: Workers, target: str) -> dict[str, Any]:
    async with workers.one() as worker:
        try:
            about = await worker.call({"op": "load", "target": target}, seconds=START_SECONDS)
        except WorkerFailed as error:
            raise ValueError(f"{target}: {error}") from error
    if "error" in about:
        raise ValueError(f"{target}: {about['error']}")
    return about


@dataclass
class IsolatedEnvironment:
    """A `Host` whose episodes live in worker processes; each episode stays in the one where it began."""

    workers: Workers
    target: str
    name: str
    summary: str
    max_turns: int
    seconds: float
    _open: dict[str, tuple[Worker, int]] = field(default_factory=dict)

    async def reset(self, row: Mapping[str, Any], seed: int) -> tuple[str, Sequence[Message]]:
        """See `Host`."""
        episode = uuid.uuid4().hex
        request = {"op": "reset", "target": self.target, "episode": episode, "row": dict(row), "seed": seed}
        load = {worker.name: 0 for worker in self.workers.all}
        for worker, _ in self._open.values():
            load[worker.name] += 1
        worker = min(self.workers.all, key=lambda each: load[each.name])
        answer = await self._call(worker, request, None)
        if "bad_row" in answer:
            raise BadRow(answer["bad_row"])
        self._open[episode] = (worker, worker.generation)
        return episode, messages_from_json(answer["messages"])

    async def step(self, episode: str, action: Message, finish_reason: FinishReason) -> Turn:
        """See `Host`."""
        worker, generation = self._open[episode]
        (message,) = messages_to_json([action])
        request = {"op": "step", "episode": episode, "action": message, "finish_reason": finish_reason}
        answer = await self._call(worker, request, generation)
        result = None if answer["result"] is None else result_from_json(answer["result"])
        return Turn(messages_from_json(answer["messages"]), bool(answer["done"]), result).checked()

    async def close(self, episode: str) -> None:
        """See `Host`."""
        found = self._open.pop(episode, None)
        if found is None or found[0].generation != found[1]:
            return
        try:
            await self._call(found[0], {"op": "close", "episode": episode}, found[1])
        except EpisodeLost:
            return

    async def _call(self, worker: Worker, request: dict[str, Any], generation: int | None) -> dict[str, Any]:
        try:
            answer = await worker.call(request, seconds=self.seconds, generation=generation)
        except WorkerFailed as error:
            raise EpisodeLost(f"{self.name}: {error}") from error
        if "error" in answer:
            raise EpisodeLost(f"{self.name}.{request['op']} raised {answer['error']}")
        return answer
