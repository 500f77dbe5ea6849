"""One sample's session: its calls, drawn by the engines with the sample's own sampling, versions and budget.

Invariants (test names): an agent begins when an engine can draw for it; a call that was not answered whole is no part
of the sample; a repeated call with one idempotency key is drawn once; a session draws no more calls than its
environment allows.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.chat import ChatTokenizer, TemplateError
from penstock.common.v1.common_pb2 import Message, SamplingParams
from penstock.recipes import Longest
from penstock.recipes.sections import Environment
from penstock.replicas.engines import Engines, GenerationFailed
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.gateway.contexts import Begun, Contexts
from services.gateway.errors import BudgetSpent, CallRefused, ContextFull, EnginesFailed, KeyUnknown


@dataclass(frozen=True)
class Means:
    """What the sessions of one source of tasks draw with. most_branches: contexts that a sample may have. routes:
    whether those of a mixture are recorded."""

    model: str
    chat: ChatTokenizer
    engines: Engines
    environment: Environment
    longest: Longest
    most_branches: int
    overrides: bool
    routes: bool = False


@dataclass(frozen=True)
class Call:
    """What an agent asks for. prompt: messages, or a text to go on with. tools: definitions that are offered.
    most_tokens: of the answer, where the agent says so. id: of its answer."""

    prompt: Sequence[Message] | str
    tools: Sequence[Any] = ()
    most_tokens: int | None = None
    stops: Sequence[str] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Answer:
    """message: what was said; tokens, logprobs: what was drawn; finish: "stop", "length" or "tool_calls"."""

    message: Message
    tokens: Sequence[int]
    logprobs: Sequence[float]
    finish: str
    prompt_tokens: int
    id: str


@dataclass(frozen=True)
class Admitted:
    """A call that may be drawn: in which context, how, and how many tokens the run grants its answer."""

    call: Call
    begun: Begun
    sampling: SamplingParams
    granted: int


Heard = Callable[[Sequence[int]], None]
"""Told the tokens of the answer so far, as they come."""


@dataclass
class _Shared:
    """An answer that several may wait for; it ends when nobody does. asked: which call it answers."""

    asked: Call
    task: asyncio.Task[Answer]
    waiting: int = 0

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)

    async def given(self) -> Answer:
        self.waiting += 1
        try:
            await asyncio.wait([self.task])
        finally:
            self.waiting -= 1
            if self.waiting == 0:
                self.task.cancel()  # one that has ended is left as it is
        if self.task.cancelled():
            raise KeyUnknown("the sample has ended")
        return self.task.result()


@dataclass
class Session:
    """Of sample `index` of a task, until a time of time.monotonic()."""

    means: Means
    task: pb.GroupTask
    index: int
    until: float
    engine: str = ""
    begun: int = 0
    answered: int = 0
    truncated: bool = False
    failure: str = ""
    ended: bool = False
    generating: float = 0.0
    _contexts: Contexts = field(init=False)
    _keyed: dict[str, _Shared] = field(default_factory=dict)
    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._contexts = Contexts(self.means.chat, self.means.routes)

    async def ready(self) -> None:
        """Waits until the sample's engine has a version that may draw for it. Raises GenerationFailed.

        An agent that waited for a version would keep its worker from others, and one of those may be what the version
        waits for: an older group, or an evaluation that holds the engine. One token is drawn for nobody; the samples of
        a group that begin together share the call.
        """
        builder, sampling = TrajectoryBuilder(), SamplingParams()
        builder.context("user", self.means.chat.plain("0"))
        sampling.CopyFrom(self.task.rollout.sampling)
        sampling.max_tokens = 1
        del sampling.stop_texts[:]
        await self.means.engines.complete(builder, self.task.group, self.task.rollout, sampling, self.until)

    async def answer(self, call: Call, idempotency: str = "") -> Answer:
        """Draws the answer to a call; one with an idempotency key is drawn once, and given again. Raises CallRefused.

        A caller that is cancelled ends the call, unless another one waits for the same.
        """
        shared = self._keyed.get(idempotency)
        if shared is not None and replace(call, id=shared.asked.id) != shared.asked:
            raise CallRefused("the Idempotency-Key was that of another request, and a new one wants a key of its own")
        if shared is None or shared.failed:
            shared = _Shared(call, self.begin(self.admit(call)))
            if idempotency:
                self._keyed[idempotency] = shared
        return await shared.given()

    def admit(self, call: Call) -> Admitted:
        """What a call is before it is drawn; it counts from here on. Raises CallRefused."""
        self._count()
        try:
            begun = (
                self._contexts.begin_text(call.prompt)
                if isinstance(call.prompt, str)
                else self._contexts.begin(call.prompt, call.tools)
            )
        except TemplateError as error:
            raise CallRefused(str(error), "messages") from error
        return Admitted(call, begun, *self._sampling(call, len(begun.builder.tokens)))

    def begin(self, admitted: Admitted, heard: Heard = lambda tokens: None) -> asyncio.Task[Answer]:
        """The answer as it is drawn. The task raises CallRefused; cancelled, it leaves no trace in the sample."""
        task = asyncio.create_task(self._draw(admitted, heard))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def end(self) -> tuple[list[TrajectoryBuilder], dict[str, int]]:
        """Ends the calls in progress; the sample's contexts, and in which of them each answer is trained."""
        self.ended = True
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        whole = self._contexts.whole()
        return whole, self._contexts.places(whole)

    @property
    def running(self) -> int:
        """Calls in progress."""
        return len(self._running)

    def _count(self) -> None:
        if self.ended:
            raise KeyUnknown("the sample has ended")
        if self.failure:
            raise EnginesFailed(self.failure)
        most = self.means.environment.max_turns
        if len(self._contexts) > self.means.most_branches:
            raise BudgetSpent(f"the sample has more than {self.means.most_branches} contexts (rollout.max_branches)")
        if self.begun >= most:
            self.truncated = True
            raise BudgetSpent(f"the sample has made its {most} calls (environment.max_turns)")
        self.begun += 1

    async def _draw(self, admitted: Admitted, heard: Heard) -> Answer:
        if self.ended:
            raise KeyUnknown("the sample has ended")
        call, begun, chat = admitted.call, admitted.begun, self.means.chat
        builder, given = begun.builder, len(begun.builder.tokens)
        began = time.monotonic()
        try:
            finish, engine = await self.means.engines.complete(
                builder,
                self.task.group,
                self.task.rollout,
                admitted.sampling,
                self.until,
                chat.text,
                lambda: heard(builder.completion),
            )
        except GenerationFailed as error:
            self.failure = str(error)
            raise EnginesFailed(str(error)) from error
        finally:
            self.generating += time.monotonic() - began
        said = self._said(call, builder.completion)
        cut = finish == pb.FINISH_REASON_LENGTH
        self._contexts.commit(begun, said, call.id, chat.text(builder.completion))
        self.engine, self.answered = engine or self.engine, self.answered + 1
        self.truncated = self.truncated or (cut and (call.most_tokens is None or admitted.granted < call.most_tokens))
        reason = "length" if cut else "tool_calls" if said.tool_calls else "stop"
        return Answer(said, builder.completion, builder.completion_logprobs, reason, given, call.id)

    def _sampling(self, call: Call, given: int) -> tuple[SamplingParams, int]:
        """The sample's own, ended where the call says; and how many tokens the answer may have."""
        chat, work = self.means.chat, self.task.rollout
        room = self.means.longest.tokens - given
        if room < 1:
            self.truncated = True
            raise ContextFull(f"{given} tokens are all that {self.means.longest.setting} holds", "messages")
        sampling = SamplingParams()
        sampling.CopyFrom(work.sampling)
        granted = min(room, sampling.max_tokens)
        sampling.max_tokens = granted if call.most_tokens is None else min(granted, call.most_tokens)
        if not sampling.stop_token_ids:
            sampling.stop_token_ids.extend(chat.stop_tokens)
        tokens, texts = chat.stops([*work.sampling.stop_texts, *call.stops])
        sampling.stop_token_ids.extend(tokens)
        del sampling.stop_texts[:]
        sampling.stop_texts.extend(texts)
        return sampling, granted

    def _said(self, call: Call, tokens: Sequence[int]) -> Message:
        """What the tokens say to the agent: without its stop text, and with calls under ids of their own."""
        means = self.means
        form: str = means.environment.tool_calls
        if not call.tools:
            form = "text"
        elif form == "auto":
            form = means.chat.call_form or "text"
        said = means.chat.said(tokens, control_tokens=means.environment.special_tokens, calls=form)
        for each in said.tool_calls:
            each.id = uuid.uuid4().hex[:9]  # Mistral's templates take nine letters and digits, and no others
        said.content = before_stop(said.content, call.stops)
        return said


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to where one of the stop texts begins."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
