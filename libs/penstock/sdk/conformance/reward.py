"""The promises of a reward service."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import grpc

from penstock.common.v1 import common_pb2
from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import FOREIGN, Security, call, channel, ready, translated
from penstock.sdk.client import checked_results
from penstock.sdk.conformance.promises import SECONDS, Report, expect, is_healthy_as, optional, refused, report_on
from penstock.sdk.samples import Invalid
from penstock.trajectory.v1 import trajectory_pb2

MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
"""What may be answered to bytes that are no message: gRPC's own libraries say INTERNAL, and grpc.aio UNKNOWN."""


async def check_reward(
    address: str, *, reward: str = "", row: Mapping[str, Any] | None = None, security: Security | None = None
) -> Report:
    """Checks a reward service. `Score` alone is the contract: health, Describe and ScoreStream may be left out.

    Args:
        reward: the name to check; empty checks the first one that it describes, or the only one.
        row: a row that the reward understands.

    Raises:
        DeadlineExceeded: nobody answers at the address.
    """
    async with channel(address, security=security, transport=FOREIGN) as opened:
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
            expect(bool(names), "Describe lists no reward")
            expect(not reward or reward in names, f"{reward!r} is not among {names}")
            name = reward or names[0]

        async def answers_each_item_once() -> None:
            answers = (await score(items)).results
            expect(sorted(each.id for each in answers) == sorted(ids), f"answered {[each.id for each in answers]}")

        async def scores_or_says_why_not() -> None:
            for answer in (await score(items)).results:
                result = checked_results([answer.id], [answer])[answer.id]
                kind = answer.WhichOneof("result")
                expect(kind is not None, f"{answer.id} has neither score nor invalid")
                expect(kind == "invalid" or not isinstance(result, Invalid), f"{answer.id}: {result}")
                expect(kind == "score" or bool(answer.invalid.reason), f"{answer.id} is invalid without a reason")

        async def same_items_same_scores() -> None:
            first, second = (await score(items)).results, (await score(items)).results
            values = [{each.id: each.score.value for each in answers} for answers in (first, second)]
            expect(values[0] == values[1], f"{values[0]} then {values[1]}")

        async def a_bad_row_spoils_no_other_item() -> None:
            bad = reward_pb2.ScoreItem(id="bad", row_json="{not json")
            answers = checked_results([*ids, "bad"], (await score([*items, bad])).results)
            expect(isinstance(answers["bad"], Invalid), f"an item with a malformed row got {answers['bad']}")
            alone = checked_results(ids, (await score(items)).results)
            expect({i: answers[i] for i in ids} == alone, "the other items were scored differently beside it")

        async def streams_the_same_answers() -> None:
            request = reward_pb2.ScoreStreamRequest(request_id="s", reward=name, items=items)
            with translated():
                streamed = [each.result async for each in stub.ScoreStream(request, timeout=SECONDS)]
            expect(
                checked_results(ids, streamed) == checked_results(ids, (await score(items)).results),
                "ScoreStream and Score disagree",
            )

        async def refuses_an_unknown_reward() -> None:
            await refused(score(items, "no-such-reward"), grpc.StatusCode.NOT_FOUND)

        async def refuses_an_empty_request() -> None:
            await refused(score([]), grpc.StatusCode.INVALID_ARGUMENT)

        async def refuses_malformed_bytes() -> None:
            raw: Any = opened.unary_unary("/penstock.reward.v1.RewardService/Score")
            await refused(call(raw(b"\xff\xff\xff", timeout=SECONDS)), *MALFORMED)

        return await report_on(
            address,
            {
                "describes itself": optional(describes_itself),
                "is healthy": optional(is_healthy_as(opened, "penstock.reward.v1.RewardService")),
                "answers each item exactly once": answers_each_item_once,
                "gives a finite score or a reason": scores_or_says_why_not,
                "gives the same items the same scores": same_items_same_scores,
                "keeps a bad item from spoiling others": a_bad_row_spoils_no_other_item,
                "streams the same answers": optional(streams_the_same_answers),
                "refuses an unknown reward with NOT_FOUND": refuses_an_unknown_reward,
                "refuses an empty request with INVALID_ARGUMENT": refuses_an_empty_request,
                "refuses malformed bytes": refuses_malformed_bytes,
            },
        )


def _items(count: int, row: Mapping[str, Any]) -> list[reward_pb2.ScoreItem]:
    prompt = [common_pb2.Message(role="user", content=str(row.get("prompt", "c3a")))]
    stop = trajectory_pb2.FINISH_REASON_STOP
    text = json.dumps(dict(row))
    return [
        reward_pb2.ScoreItem(id=f"item-{n}", prompt=prompt, completion="3ac", finish_reason=stop, row_json=text)
        for n in range(count)
    ]
