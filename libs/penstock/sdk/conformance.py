"""The contract test kit: does a service, in whatever language, keep the promises of its proto?

    report = await check_reward("127.0.0.1:7000")
    report.passed, [check for check in report.checks if not check.passed]

Each check has a name and, if it fails, says what was expected and what came.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.common.v1 import common_pb2
from penstock.environment.v1 import environment_pb2, environment_pb2_grpc
from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import RpcError, Security, call, channel, ready, translated
from penstock.rpc.errors import InvalidArgument, NotFound
from penstock.sdk.client import checked_results
from penstock.sdk.samples import Invalid
from penstock.trajectory.v1 import trajectory_pb2

SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One promise. `detail` says what came where it is not kept."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All promises of a service."""

    address: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every promise is kept."""
        return all(check.passed for check in self.checks)


class _Broken(Exception):
    """A promise is not kept."""


def _expect(condition: bool, detail: str) -> None:
    if not condition:
        raise _Broken(detail)


async def _run(address: str, promises: Mapping[str, Callable[[], Awaitable[None]]]) -> Report:
    checks = []
    for name, promise in promises.items():
        try:
            await promise()
            checks.append(Check(name, True))
        except (_Broken, RpcError) as error:
            checks.append(Check(name, False, str(error)))
    return Report(address, tuple(checks))


def _items(count: int, row: Mapping[str, Any]) -> list[reward_pb2.ScoreItem]:
    prompt = [common_pb2.Message(role="user", content=str(row.get("prompt", "c3a")))]
    stop = trajectory_pb2.FINISH_REASON_STOP
    text = json.dumps(dict(row))
    return [
        reward_pb2.ScoreItem(id=f"item-{n}", prompt=prompt, completion="3ac", finish_reason=stop, row_json=text)
        for n in range(count)
    ]


async def check_reward(
    address: str, *, reward: str = "", row: Mapping[str, Any] | None = None, security: Security | None = None
) -> Report:
    """Checks a reward service.

    Args:
        reward: the name to check; empty checks the first one that it describes.
        row: a row that the reward understands.

    Raises:
        DeadlineExceeded: nobody answers at the address.
    """
    async with channel(address, security=security) as opened:
        await ready(opened, address, within=10)
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        name = reward
        items = _items(8, row or {"prompt": "c3a", "answer": "3ac"})
        ids = [item.id for item in items]

        async def score(asked: list[reward_pb2.ScoreItem], of: str | None = None) -> reward_pb2.ScoreResponse:
            request = reward_pb2.ScoreRequest(
                request_id=uuid.uuid4().hex, reward=name if of is None else of, items=asked
            )
            return await call(stub.Score(request, timeout=SECONDS))

        async def describes_itself() -> None:
            nonlocal name
            answer = await call(stub.Describe(reward_pb2.DescribeRequest(), timeout=SECONDS))
            names = [each.name for each in answer.rewards]
            _expect(bool(names), "Describe lists no reward")
            _expect(not reward or reward in names, f"{reward!r} is not among {names}")
            name = reward or names[0]

        async def answers_each_item_once() -> None:
            answers = (await score(items)).results
            _expect(sorted(each.id for each in answers) == sorted(ids), f"answered {[each.id for each in answers]}")

        async def scores_or_says_why_not() -> None:
            for answer in (await score(items)).results:
                result = checked_results([answer.id], [answer])[answer.id]
                kind = answer.WhichOneof("result")
                _expect(kind is not None, f"{answer.id} has neither score nor invalid")
                _expect(kind == "invalid" or not isinstance(result, Invalid), f"{answer.id}: {result}")
                _expect(kind == "score" or bool(answer.invalid.reason), f"{answer.id} is invalid without a reason")

        async def same_items_same_scores() -> None:
            first, second = (await score(items)).results, (await score(items)).results
            values = [{each.id: each.score.value for each in answers} for answers in (first, second)]
            _expect(values[0] == values[1], f"{values[0]} then {values[1]}")

        async def a_bad_row_spoils_no_other_item() -> None:
            bad = reward_pb2.ScoreItem(id="bad", row_json="{not json")
            answers = checked_results([*ids, "bad"], (await score([*items, bad])).results)
            _expect(isinstance(answers["bad"], Invalid), f"an item with a malformed row got {answers['bad']}")
            alone = checked_results(ids, (await score(items)).results)
            _expect({i: answers[i] for i in ids} == alone, "the other items were scored differently beside it")

        async def streams_the_same_answers() -> None:
            request = reward_pb2.ScoreStreamRequest(request_id="s", reward=name, items=items)
            with translated():
                streamed = [each.result async for each in stub.ScoreStream(request, timeout=SECONDS)]
            _expect(
                checked_results(ids, streamed) == checked_results(ids, (await score(items)).results),
                "ScoreStream and Score disagree",
            )

        async def refuses_an_unknown_reward() -> None:
            await _refused(score(items, "no-such-reward"), NotFound)

        async def refuses_an_empty_request() -> None:
            await _refused(score([]), InvalidArgument)

        async def refuses_malformed_bytes() -> None:
            raw: Any = opened.unary_unary("/penstock.reward.v1.RewardService/Score")
            await _refused(call(raw(b"\xff\xff\xff", timeout=SECONDS)), InvalidArgument)

        return await _run(
            address,
            {
                "describes itself": describes_itself,
                "is healthy": _health(opened, "penstock.reward.v1.RewardService"),
                "answers each item exactly once": answers_each_item_once,
                "gives a finite score or a reason": scores_or_says_why_not,
                "gives the same items the same scores": same_items_same_scores,
                "keeps a bad item from spoiling others": a_bad_row_spoils_no_other_item,
                "streams the same answers": streams_the_same_answers,
                "refuses an unknown reward with NOT_FOUND": refuses_an_unknown_reward,
                "refuses an empty request with INVALID_ARGUMENT": refuses_an_empty_request,
                "refuses malformed bytes with INVALID_ARGUMENT": refuses_malformed_bytes,
            },
        )


async def check_environment(
    address: str, *, environment: str = "", row: Mapping[str, Any] | None = None, security: Security | None = None
) -> Report:
    """Checks an environment service; see `check_reward`."""
    async with channel(address, security=security) as opened:
        await ready(opened, address, within=10)
        stub = environment_pb2_grpc.EnvironmentServiceStub(opened)
        name = environment
        text = json.dumps(dict(row or {}))

        async def reset(request_id: str) -> environment_pb2.ResetResponse:
            request = environment_pb2.ResetRequest(request_id=request_id, environment=name, row_json=text, seed=7)
            return await call(stub.Reset(request, timeout=SECONDS))

        async def step(episode: str, request_id: str) -> environment_pb2.StepResponse:
            action = common_pb2.Message(role="assistant", content="1")
            request = environment_pb2.StepRequest(request_id=request_id, episode=episode, action=action)
            return await call(stub.Step(request, timeout=SECONDS))

        async def lists_itself() -> None:
            nonlocal name
            answer = await call(stub.ListEnvironments(environment_pb2.ListEnvironmentsRequest(), timeout=SECONDS))
            names = [each.name for each in answer.environments]
            _expect(bool(names) and (not environment or environment in names), f"it lists {names}")
            name = environment or names[0]

        async def resets_once_per_request() -> None:
            key = uuid.uuid4().hex
            first, second = await reset(key), await reset(key)
            _expect(first == second, "the same request id gave two episodes")
            _expect(bool(first.messages), "Reset gave no message")
            _expect(first.lease.ToNanoseconds() > 0, "Reset gave no lease")

        async def steps_once_per_request() -> None:
            episode = (await reset(uuid.uuid4().hex)).episode
            first, second = await step(episode, "step-1"), await step(episode, "step-1")
            _expect(first == second, f"a repeated step gave {second} after {first}")
            _expect(first.done or bool(first.messages), "a step that does not end the episode gave no message")
            kinds = [first.HasField("reward"), bool(first.invalid_reason)]
            _expect(not first.done or sum(kinds) == 1, "a finished episode needs a reward or an invalid reason")

        async def closes_more_than_once() -> None:
            episode = (await reset(uuid.uuid4().hex)).episode
            for _ in range(2):
                await call(stub.Close(environment_pb2.CloseRequest(episode=episode), timeout=SECONDS))
            await _refused(step(episode, "late"), NotFound)

        async def refuses_an_unknown_environment() -> None:
            request = environment_pb2.ResetRequest(request_id="x", environment="no-such-environment")
            await _refused(call(stub.Reset(request, timeout=SECONDS)), NotFound)

        return await _run(
            address,
            {
                "lists its environments": lists_itself,
                "is healthy": _health(opened, "penstock.environment.v1.EnvironmentService"),
                "gives one episode per request id": resets_once_per_request,
                "plays a repeated step once": steps_once_per_request,
                "closes more than once and forgets": closes_more_than_once,
                "refuses an unknown environment with NOT_FOUND": refuses_an_unknown_environment,
            },
        )


def _health(opened: Any, service: str) -> Callable[[], Awaitable[None]]:
    async def is_healthy() -> None:
        stub = health_pb2_grpc.HealthStub(opened)
        answer = await call(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS))
        _expect(answer.status == health_pb2.HealthCheckResponse.SERVING, f"{service} has status {answer.status}")

    return is_healthy


async def _refused(answer: Awaitable[Any], expected: type[RpcError]) -> None:
    try:
        await answer
    except expected:
        return
    raise _Broken(f"it was accepted, not refused with {expected.__name__}")
