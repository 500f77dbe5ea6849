"""The program of a worker process: runs somebody's rewards, environments and agents, one request at a time.

Requests and answers are JSON lines on two private pipes; standard output goes to standard error, so that a print in a
reward cannot spoil an answer. `python -m penstock.sdk.hosting.worker_process REQUEST_FD ANSWER_FD PARENT_PID MEMORY`.

Threads that agents leave running are let be, few of them: their keys open nothing any more. A process that has more
than MOST_LEFT says with its answer that it is worn, and is replaced.

MEMORY is how many bytes of address space it may take beyond what it has after importing (0: any number): a reward that
asks for more gets a MemoryError, which fails its item, before the kernel kills a process of its choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import json
import os
import resource
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import thread
from pathlib import Path
from typing import Any

from penstock.sdk.agents import Agent, Endpoint, openai_library
from penstock.sdk.environments import BadRow, Environment, Turn
from penstock.sdk.hosting.wire import (
    messages_from_json,
    messages_to_json,
    result_to_json,
    sample_from_json,
    task_from_json,
)
from penstock.sdk.rewards import Reward
from penstock.sdk.samples import as_result
from penstock.system.parent_death import die_with_parent

MOST_LEFT = 8
"""Threads that agents may leave running in a process."""


@functools.cache
def resolve(target: str) -> Any:
    """The object that `package.module:name` names, or what it makes of the arguments of `package.module:name({...})`,
    which are JSON.

    Raises:
        ValueError: the text has another form.
        ImportError, AttributeError: there is no such object.
    """
    named, bracket, arguments = target.partition("(")
    module, separator, name = named.partition(":")
    if not separator or (bracket and not arguments.endswith(")")):
        raise ValueError(f"{target!r}: write package.module:name")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found(**json.loads(arguments[:-1])) if bracket else found


class Requests:
    """The open episodes of this process, and what it does with a request."""

    def __init__(self, memory: int = 0) -> None:
        self._memory = memory
        self._episodes: dict[str, Environment] = {}

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Performs one request; failures of user code come back as `error`."""
        try:
            handler = getattr(self, f"_{request['op']}")
            result: dict[str, Any] = await handler(request)
            return result
        except BadRow as error:
            return {"bad_row": str(error)}
        except BaseException as error:  # the process boundary: everything is told to the parent, SystemExit too
            return _failed(error)

    async def _load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        _limit_memory(0)  # imports are not limited
        try:
            found = resolve(request["target"])
        finally:
            _limit_memory(self._memory)
        if isinstance(found, Reward):
            return {
                "name": found.name,
                "summary": found.summary,
                "timeout": found.timeout,
                "bounds": list(found.bounds),
            }
        if isinstance(found, Agent):
            if found.client == "openai":
                openai_library(found.name)
            return {"name": found.name, "summary": found.summary, "client": found.client}
        return {"summary": found.summary, "max_turns": found.max_turns}

    async def _score(self, request: Mapping[str, Any]) -> dict[str, Any]:
        scored: Reward = resolve(request["target"])
        returned = await _settle(scored.function(sample_from_json(request["sample"])))
        return result_to_json(scored.checked(as_result(returned)))

    async def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = Endpoint(request["base_url"], request["key"])
        os.environ.update(endpoint.variables)
        agent: Agent = resolve(request["target"])
        try:
            result = result_to_json(await agent.outcome(task_from_json(request["task"]), endpoint))
        except Exception as error:
            result = _failed(error)
        finally:
            await _nothing_left()  # which would draw into the next sample
        return {**result, "worn": _threads_left() > MOST_LEFT}

    async def _reset(self, request: Mapping[str, Any]) -> dict[str, Any]:
        environment: Environment = resolve(request["target"])()
        try:
            messages = await _settle(environment.reset(request["row"], request["seed"]))
        except BaseException:  # nobody else would close what it has opened
            with contextlib.suppress(Exception):  # of what is half made; why it could not begin is what counts
                await _settle(environment.close())
            raise
        self._episodes[request["episode"]] = environment
        return {"messages": messages_to_json(messages)}

    async def _step(self, request: Mapping[str, Any]) -> dict[str, Any]:
        (action,) = messages_from_json([request["action"]])
        turn = await _settle(self._episodes[request["episode"]].step(action, request["finish_reason"]))
        if not isinstance(turn, Turn):
            raise TypeError(f"step returned {type(turn).__name__}, not a Turn")
        turn = turn.checked()
        result = None if turn.result is None else result_to_json(as_result(turn.result))
        return {"messages": messages_to_json(turn.messages), "done": turn.done, "result": result}

    async def _close(self, request: Mapping[str, Any]) -> dict[str, Any]:
        environment = self._episodes.pop(request["episode"], None)
        if environment is not None:
            await _settle(environment.close())
        return {}


async def _nothing_left() -> None:
    """Ends the tasks that somebody has begun and not awaited."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _threads_left() -> int:
    """Threads that do something: neither the main one nor those of a pool that wait for work."""
    frames = sys._current_frames()
    doing = [frames.get(each.ident or 0) for each in threading.enumerate() if each is not threading.main_thread()]
    return sum(frame is not None and frame.f_code.co_filename != thread.__file__ for frame in doing)


def _failed(error: BaseException) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"[:300]}


async def _settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _limit_memory(more: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = hard
    if more:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> None:
    """Answers requests until the pipe closes."""
    request_fd, answer_fd, parent, memory = (int(argument) for argument in sys.argv[1:5])
    die_with_parent()  # a reward that hangs must not outlive the service
    if os.getppid() != parent:
        return
    os.dup2(2, 1)
    requests = Requests(memory)
    with os.fdopen(request_fd, "rb") as incoming, os.fdopen(answer_fd, "wb") as outgoing, asyncio.Runner() as runner:
        for line in incoming:
            answer = runner.run(requests.answer(json.loads(line)))
            outgoing.write(json.dumps(answer).encode() + b"\n")
            outgoing.flush()


if __name__ == "__main__":
    main()
