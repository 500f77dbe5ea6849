"""The generation service against every attack of the kit, with a fake engine behind it."""

from typing import Any

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.testing.hostile_messages import assault
from penstock.trajectories import int32s
from services.generation.engine import EngineSettings
from services.generation.engine_host import EngineHost
from services.generation.fake_engine_testing import FakeEngine
from services.generation.server import Generation

SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"]


async def test_every_rpc_withstands_hostile_requests() -> None:
    engine = FakeEngine(PolicyVersion(epoch=1, step=5))
    host = EngineHost(EngineSettings("model", max_running=2, max_context=32), "g0")
    host._engine = engine  # type: ignore[assignment]
    host.state = pb.GetEngineResponse.STATE_READY
    await host.gate.open(5)
    sampling = SamplingParams(temperature=1, top_p=0.5, top_k=3, max_tokens=3, stop_token_ids=[2], seed=1)
    good = pb.GenerateRequest(
        request_id="r", prompt_tokens=int32s([3, 10]), prompt_token_count=2, sampling=sampling, min_step=1
    )
    pinned = pb.GenerateRequest(
        request_id="r", prompt_tokens=int32s([3]), prompt_token_count=1, sampling=sampling, pinned_step=5
    )
    scoring = pb.ScoreTokensRequest(request_id="s", tokens=int32s([3, 10]), token_count=2, first=1)
    async with rpc.Server("generation") as server:
        server.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, Generation(host, vocabulary=64))
        await server.start()
        assert await assault(server.address, SERVICE, {"Generate": [good, pinned], "ScoreTokens": [scoring]}) == []
        async with rpc.channel(server.address, default_seconds=10) as channel:
            stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
            await rpc.call(stub.Resume(pb.ResumeRequest()))
            assert [chunk.token_count async for chunk in stub.Generate(good)] == [1, 1, 1]
            left = await rpc.call(stub.GetEngine(pb.GetEngineRequest()))
            assert (left.running, left.waiting) == (0, 0)
