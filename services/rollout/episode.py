"""One sample from prompt to reward: tokens in, tokens out, every end typed.

The chat template is rendered once per context; the model's tokens are appended as drawn and never tokenised again.
"""

from __future__ import annotations

import functools
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from opentelemetry import trace

from penstock import rpc
from penstock.chat import TemplateError
from penstock.common.v1.common_pb2 import Message, SamplingParams
from penstock.environment.v1 import environment_pb2 as env
from penstock.environment.v1 import environment_pb2_grpc
from penstock.recipes import TooLong
from penstock.recipes.sections import Environment
from penstock.replicas.engines import GenerationFailed
from penstock.reward.v1.reward_pb2 import ScoreItem
from penstock.telemetry.tracing import inject_string, span
from penstock.trajectories import TrajectoryBuilder, TrajectoryError, check_trajectory, failed
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.agents import by_agent
from services.rollout.ending import ended
from services.rollout.failures import EnvironmentFailed, RewardFailed
from services.rollout.frozen import Attempts
from services.rollout.tools import Deadline, Place, Tools

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
T = TypeVar("T")
ENVIRONMENT_SECONDS = 60.0
AWAY = rpc.Retry((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED))


async def play(tools: Tools, task: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
    """Plays sample `index` of a task and gives its one terminal trajectory. Never raises for a failed sample.

    `until` is the group's deadline as a time of time.monotonic().
    """
    deadline = Deadline(until)
    with span(tracer, "sample", {"group": task.group, "index": index}) as around:
        try:
            t = await _drive(tools.environment)(tools, task, index, deadline)
            if tools.teacher is not None and task.kind == pb.TASK_KIND_TRAIN:
                await tools.teacher.judge(t, deadline.at)
            check_trajectory(t)
        except GenerationFailed as error:
            t = failed(task, index, tools.model, _or_timeout(pb.Outcome.FAILURE_GENERATION, deadline.at), str(error))
        except RewardFailed as error:
            t = failed(task, index, tools.model, pb.Outcome.FAILURE_REWARD, str(error))
        except EnvironmentFailed as error:
            t = failed(task, index, tools.model, _or_timeout(pb.Outcome.FAILURE_ENVIRONMENT, deadline.at), str(error))
        except (TrajectoryError, TemplateError, TooLong) as error:
            t = failed(task, index, tools.model, pb.Outcome.FAILURE_INVALID, str(error))
        t.traceparent = inject_string()
        around.set_attribute("outcome", pb.Outcome.Status.Name(t.outcome.status))
        if t.HasField("reward"):
            around.set_attribute("reward", t.reward)
    return t


def _drive(environment: Environment) -> Callable[[Tools, pb.GroupTask, int, Deadline], Awaitable[pb.Trajectory]]:
    if environment.agent:
        return by_agent
    return _many_turns if environment.multi_turn else _one_turn


def _or_timeout(failure: pb.Outcome.Failure, until: float) -> pb.Outcome.Failure:
    return pb.Outcome.FAILURE_TIMEOUT if time.monotonic() >= until else failure


def _sampling(tools: Tools, work: pb.RolloutWork) -> SamplingParams:
    """The task's sampling, ended by all tokens that end the model's turns unless the recipe names others.

    Stop texts that are control tokens become stop tokens: no text that is read has them."""
    sampling = SamplingParams()
    sampling.CopyFrom(work.sampling)
    if not sampling.stop_token_ids:
        sampling.stop_token_ids.extend(tools.chat.stop_tokens)
    tokens, texts = tools.chat.stops(work.sampling.stop_texts)
    sampling.stop_token_ids.extend(tokens)
    sampling.ClearField("stop_texts")
    sampling.stop_texts.extend(texts)
    return sampling


def _said(tools: Tools, builder: TrajectoryBuilder) -> str:
    """What the model's last turn says to rewards and environments."""
    return tools.chat.text(builder.completion, control_tokens=tools.environment.special_tokens)


async def _one_turn(tools: Tools, task: pb.GroupTask, index: int, deadline: Deadline) -> pb.Trajectory:
    work = task.rollout
    builder = tools.builder(task)
    offered = json.loads(work.task.tools_json or "[]")
    builder.context("user", tools.chat.render(work.task.messages, tools=offered))
    sampling = _sampling(tools, work)
    sampling.max_tokens = tools.longest(task).room(len(builder.tokens), sampling.max_tokens)
    began = time.monotonic()
    finish, engine = await tools.engines.complete(builder, task.group, work, sampling, deadline.at, tools.chat.text)
    generated = time.monotonic()
    verdict = await tools.scoring.score(
        ScoreItem(
            id="0",
            prompt=work.task.messages,
            completion=_said(tools, builder),
            finish_reason=finish,
            row_json=work.task.row_json,
        )
    )
    deadline.at += time.monotonic() - generated
    t = _finished(tools, task, index, builder, verdict.components, finish == pb.FINISH_REASON_LENGTH)
    if verdict.answer is not None:
        t.answer = verdict.answer
    t.engine = engine
    t.timings.generating.FromNanoseconds(int((generated - began) * 1e9))
    t.timings.reward.FromNanoseconds(int((time.monotonic() - generated) * 1e9))
    return t


async def _many_turns(tools: Tools, task: pb.GroupTask, index: int, deadline: Deadline) -> pb.Trajectory:
    work, builder, longest = task.rollout, tools.builder(task), tools.longest(task).tokens
    generating = playing = 0.0
    engine = ""
    if not await tools.places.some("an environment", on="environment", within=deadline.at - time.monotonic()):
        raise EnvironmentFailed("no environment service took part in the run until the group's deadline")
    place = tools.place(task, index)
    reset = env.ResetRequest(
        request_id=f"{task.run}/{task.group}/{index}/{uuid.uuid4().hex[:8]}",
        environment=work.task.environment,
        row_json=work.task.row_json or json.dumps({}),
        seed=task.seed,
    )
    opened = await _ask(tools, place, "Reset", lambda timeout: place.stub.Reset(reset, timeout=timeout), deadline)
    offered = json.loads(work.task.tools_json or "[]")
    builder.context("user", tools.chat.render(opened.messages, tools=offered))
    budget = work.sampling.max_tokens
    tools.longest(task).room(len(builder.tokens), 1)  # later turns are bounded by what is left: no failure, but an end
    conversation = list(opened.messages)
    truncated = True
    try:
        for turn in range(tools.environment.max_turns):
            sampling = _sampling(tools, work)
            sampling.max_tokens = min(budget, longest - len(builder.tokens))
            began = time.monotonic()
            finish, engine = await tools.engines.complete(
                builder, task.group, work, sampling, deadline.at, tools.chat.text
            )
            generating += time.monotonic() - began
            budget -= len(builder.completion)
            began = time.monotonic()
            played = env.StepRequest(
                request_id=f"{opened.episode}/{turn}",
                episode=opened.episode,
                action=tools.chat.said(
                    builder.completion,
                    control_tokens=tools.environment.special_tokens,
                    calls=tools.environment.tool_calls,
                ),
                finish_reason=finish,
            )
            step = await _ask(tools, place, "Step", functools.partial(_step, place.stub, played), deadline)
            playing += time.monotonic() - began
            if step.done or finish == pb.FINISH_REASON_LENGTH or budget <= 0:
                truncated = not step.done
                break
            observed = tools.chat.after_turn(
                step.messages, last=builder.tokens[-1], history=conversation, tools=offered
            )
            if len(builder.tokens) + len(observed) >= longest:
                break  # the model could not read it
            builder.context("user", observed)
            conversation += [Message(role="assistant", content=_said(tools, builder)), *step.messages]
    finally:
        await _close(place, opened.episode)
    if step.invalid_reason:
        raise RewardFailed(f"{work.task.environment}: {step.invalid_reason}")
    if not step.HasField("reward"):
        raise EnvironmentFailed(f"{work.task.environment} gave no reward at the end of the episode")
    name = work.task.environment
    components = [pb.RewardComponent(name=name, value=step.reward, weight=1.0)]
    components += [pb.RewardComponent(name=f"{name}.{part}", value=v) for part, v in sorted(step.components.items())]
    t = _finished(tools, task, index, builder, components, truncated)
    if step.HasField("answer"):
        t.answer = step.answer
    t.engine, t.environment_instance = engine, place.address
    t.timings.generating.FromNanoseconds(int(generating * 1e9))
    t.timings.environment.FromNanoseconds(int(playing * 1e9))
    return t


def _finished(
    tools: Tools,
    task: pb.GroupTask,
    index: int,
    builder: TrajectoryBuilder,
    components: list[pb.RewardComponent],
    truncated: bool,
) -> pb.Trajectory:
    return ended(builder.fill(header(task, index, tools.model)), components, truncated)


async def _ask(tools: Tools, place: Place, method: str, call: Callable[[float], Awaitable[T]], deadline: Deadline) -> T:
    """Reset or Step; both are idempotent by request id and are repeated while the service is away or full: until
    the deadline, or for as long as another team's may be away, by which the deadline moves on."""
    began = time.monotonic()
    left = max(0.05, deadline.at - began)
    usual = min(ENVIRONMENT_SECONDS, left)
    what, on = f"{tools.environment.name}.{method}", f"environment {place.address}"
    attempts = Attempts(place.breathes)

    async def attempt(seconds: float) -> T:
        return await attempts.attempt(rpc.call(call(min(seconds, usual))))

    try:
        answer = await rpc.retried(AWAY, tools.outage or left, attempt, what=what, on=on)
    except rpc.RpcError as error:
        raise EnvironmentFailed(str(error)) from error
    finally:
        took = time.monotonic() - began
        deadline.at += took if tools.outage and took > usual else 0.0
    return answer


def _step(
    stub: environment_pb2_grpc.EnvironmentServiceAsyncStub, request: env.StepRequest, timeout: float
) -> Awaitable[env.StepResponse]:
    return stub.Step(request, timeout=timeout)


async def _close(place: Place, episode: str) -> None:
    try:
        await rpc.call(place.stub.Close(env.CloseRequest(episode=episode), timeout=5))
    except rpc.RpcError as error:
        logger.info("episode is left to its lease: %s", error, extra={"episode": episode})
