"""`@agent`: a program that calls a model by OpenAI's API becomes one that is trained.

    @agent
    async def solver(task: Task, client: openai.AsyncOpenAI) -> float:
        answer = await client.chat.completions.create(model="policy", messages=[...], tools=[...])
        ...
        return 1.0 if right else 0.0

The client is OpenAI's own, pointed at the sample's session: an AsyncOpenAI for a coroutine, an OpenAI for a plain
function. With `@agent(client="endpoint")` the function gets the `Endpoint` instead, for whatever else speaks the API.
In a worker process OPENAI_BASE_URL and OPENAI_API_KEY are set, too.

Invariant (test name): an agent that raises, hangs or dies has failed, and has no reward.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload

from penstock.sdk.ending import in_thread, not_ending
from penstock.sdk.samples import Message, Result, as_result

Client = Literal["openai", "endpoint"]


@dataclass(frozen=True)
class Task:
    """What an agent is to do. row: the data set's row; messages: its conversation so far, if it has one."""

    row: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    seed: int = 0

    @property
    def prompt(self) -> str:
        """The last message's text; empty without messages."""
        return self.messages[-1].content if self.messages else ""


@dataclass(frozen=True)
class Endpoint:
    """Where the policy is called, and the key of this sample's session."""

    base_url: str
    key: str = field(repr=False)

    @property
    def variables(self) -> dict[str, str]:
        """As programs of others want it."""
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.key}

    async def chat(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        """The message that the policy answers with, for agents that have no client. fields: as `tools`, of the request.
        Raises OSError."""
        return await asyncio.to_thread(self._chat, {"model": "policy", "messages": list(messages), **fields})

    def _chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        url = f"{self.base_url}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - the caller's own
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            message: dict[str, Any] = json.load(answer)["choices"][0]["message"]
        return message


class AgentFailed(Exception):
    """The agent raised, hung or died; the text says which."""


class AgentHost(Protocol):
    """Where one agent runs: this process, or worker processes."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    async def run(self, task: Task, endpoint: Endpoint, seconds: float) -> Result:
        """Runs it to its end, `seconds` at most. Raises AgentFailed."""
        ...


@dataclass(frozen=True)
class Agent:
    """An agent function; an `AgentHost` in this process."""

    function: Callable[[Task, Any], Any]
    name: str
    summary: str
    client: Client

    def __call__(self, task: Task, client: Any) -> Any:
        return self.function(task, client)

    async def run(self, task: Task, endpoint: Endpoint, seconds: float) -> Result:
        """See `AgentHost`. A thread cannot be killed: a plain function that hangs goes on in its own."""
        try:
            async with asyncio.timeout(seconds) as limit:
                return await self.outcome(task, endpoint)
        except TimeoutError as error:
            if limit.expired():
                raise AgentFailed(f"{self.name} took longer than {seconds:.0f} s") from error
            raise AgentFailed(f"{self.name} raised TimeoutError: {error}"[:300]) from error
        except BaseException as error:  # somebody's code: its failure is this sample's, not the service's
            current = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
                raise
            raise AgentFailed(f"{self.name} raised {type(error).__name__}: {error}"[:300]) from error

    async def outcome(self, task: Task, endpoint: Endpoint) -> Result:
        """What the agent says of its work. Raises what it raises."""
        client = endpoint if self.client == "endpoint" else self._openai(endpoint)
        if inspect.iscoroutinefunction(self.function):
            returned = self.function(task, client)
        else:
            returned = await in_thread(self.function, task, client)
        if inspect.isawaitable(returned):
            with not_ending():
                returned = await returned
        return as_result(returned)

    def _openai(self, endpoint: Endpoint) -> Any:
        openai = openai_library(self.name)
        made = openai.AsyncOpenAI if inspect.iscoroutinefunction(self.function) else openai.OpenAI
        return made(base_url=endpoint.base_url, api_key=endpoint.key)


def openai_library(name: str) -> Any:
    """OpenAI's client library. Raises ImportError with the way out."""
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        way_out = "install the package openai, or take the address alone: @agent(client='endpoint')"
        raise ImportError(f"agent {name!r} wants OpenAI's client, which this Python has not: {way_out}") from error


@overload
def agent(function: Callable[[Task, Any], Any], /) -> Agent: ...


@overload
def agent(*, name: str | None = None, client: Client = "openai") -> Callable[[Callable[[Task, Any], Any]], Agent]: ...


def agent(
    function: Callable[[Task, Any], Any] | None = None, /, *, name: str | None = None, client: Client = "openai"
) -> Any:
    """Makes an `Agent` of a function from a task and a client to a number, `Scored` or `Invalid`.

    Args:
        name: what recipes call it; the function's name by default.
        client: whether the function gets OpenAI's client, or the `Endpoint`.
    """

    def make(inner: Callable[[Task, Any], Any]) -> Agent:
        summary = (inspect.getdoc(inner) or "").partition("\n")[0]
        return Agent(inner, name or str(getattr(inner, "__name__", type(inner).__name__)), summary, client)

    return make(function) if function is not None else make
