"""The kit itself: it finds every kind of defect in a server that has them, and its attacks are what they claim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from penstock.common.v1.common_pb2 import SamplingParams
from penstock.diagnostics.v1 import diagnostics_pb2
from penstock.generation.v1 import generation_pb2
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.rpc import Server, Transport, invalid_argument, not_found
from penstock.testing.hostile_messages import assault, attacks
from penstock.weights.v1 import weights_pb2

REWARD = pb.DESCRIPTOR.services_by_name["RewardService"]
LIMIT = 4 << 20
ITEM = pb.ScoreItem(id="1", completion="x", row_json="{}")
SEEDS = {"Score": pb.ScoreRequest(items=[ITEM]), "ScoreStream": pb.ScoreStreamRequest(items=[ITEM])}


class Careless(reward_pb2_grpc.RewardServiceServicer):
    """Takes whatever the contract allows, each method with a fault of its own."""

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        if request.reward.startswith("/"):
            raise not_found("FileNotFoundError: [Errno 2] /usr/lib/python3/site.py")
        if request.items[0].row_json == "[]":
            raise KeyError("row")
        if request.items[0].completion == "*":
            await asyncio.Event().wait()
        return pb.ScoreResponse()

    async def ScoreStream(  # noqa: N802
        self, request: pb.ScoreStreamRequest, context: Any
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        yield pb.ScoreStreamResponse()
        if request.request_id == "*":
            raise RuntimeError("after an answer")

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse()


async def findings(servicer: object) -> list[str]:
    async with Server("careless", transport=Transport(max_message_bytes=LIMIT)) as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await server.start()
        return await assault(server.address, REWARD, SEEDS, limit=LIMIT, seconds=3.0)


async def test_every_kind_of_defect_is_found() -> None:
    found = await findings(Careless())
    assert any("Score: reward = '/etc/passwd'" in f and "FileNotFoundError" in f for f in found)
    assert any("Score: items.0.completion = '*'" in f and "DEADLINE_EXCEEDED" in f for f in found)
    assert any("Score: items.0.row_json = '[]'" in f and "INTERNAL" in f for f in found)
    assert any("ScoreStream: request_id = '*'" in f and "INTERNAL" in f for f in found)
    assert not any(f.startswith("Describe") for f in found)


async def test_a_server_that_only_refuses_has_no_defect() -> None:
    class Refusing(Careless):
        async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
            raise invalid_argument(f"no reward {request.reward!r}")

        async def ScoreStream(  # noqa: N802
            self, request: pb.ScoreStreamRequest, context: Any
        ) -> AsyncIterator[pb.ScoreStreamResponse]:
            raise invalid_argument("no")
            yield

    assert await findings(Refusing()) == []


async def test_every_servers_diagnostics_withstand() -> None:
    async with Server("any") as server:
        await server.start()
        service = diagnostics_pb2.DESCRIPTOR.services_by_name["DiagnosticsService"]
        assert await assault(server.address, service, {}) == []


async def test_a_method_without_a_seed_is_an_error() -> None:
    with pytest.raises(KeyError, match="Score"):
        await assault("127.0.0.1:1", REWARD, {})


def generate() -> generation_pb2.GenerateRequest:
    sampling = SamplingParams(temperature=1, top_p=1, max_tokens=1)
    return generation_pb2.GenerateRequest(
        request_id="r", prompt_tokens=b"\0" * 4, prompt_token_count=1, sampling=sampling
    )


def refused(name: str, made: Iterator[Any]) -> bool:
    (found,) = [a for a in made if a.name == name]
    return bool(found.must_refuse)


def test_must_refuse_is_set_for_whatever_the_contract_forbids() -> None:
    hold = weights_pb2.HoldVersionsRequest(holder="h")
    hold.lease.FromSeconds(1)
    assert refused("sampling.temperature = nan", attacks(generate()))
    assert refused("sampling unset", attacks(generate()))
    assert refused("request_id = ''", attacks(generate()))
    for span in ("9223372036854775807 s 0 ns", "1 s -5 ns", "0 s 2147483647 ns"):
        assert refused(f"lease = {span}", attacks(hold))
    assert refused("no protobuf", attacks(hold))
    assert not refused("unknown fields", attacks(hold))
    assert not refused("step = 18446744073709551615", attacks(hold))


def test_truncated_messages_are_cut_inside_a_field() -> None:
    cut = [a for a in attacks(generate()) if a.name.startswith("cut after")]
    assert cut and all(a.must_refuse for a in cut)
    for each in cut:
        with pytest.raises(DecodeError):
            generation_pb2.GenerateRequest.FromString(each.payload)


def test_attacks_are_the_same_at_every_run() -> None:
    assert [a.payload for a in attacks(generate())] == [a.payload for a in attacks(generate())]
