"""The coordinator of a running run against every attack of the kit: it goes on, and ends as it was asked to."""

import pathlib
from typing import Any

from penstock import rpc
from penstock.bus import Bus, RunNames
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.testing.hostile_messages import assault
from penstock.trajectory.v1 import trajectory_pb2
from penstock.weights.v1 import weights_pb2
from services.coordinator.server import CoordinatorServicer
from services.coordinator.testing.run import drawn, make_coordinator, make_recipe, publish, running

SERVICE = pb.DESCRIPTOR.services_by_name["CoordinatorService"]


async def test_every_rpc_withstands_hostile_requests(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat)
    task = trajectory_pb2.GroupTask(run="r1", group="g00000900", kind=trajectory_pb2.TASK_KIND_TRAIN, group_size=3)
    await publish(bus, names, drawn(task, 1))
    seeds: Any = {
        "ListSteps": pb.ListStepsRequest(after=1, page_size=2),
        "StopRun": pb.StopRunRequest(reason="enough"),
        "DecideVersion": pb.DecideVersionRequest(step=1, decision=weights_pb2.DECISION_PROMOTE, reason="good"),
        "ListSamples": pb.ListSamplesRequest(page_size=3, kind=trajectory_pb2.TASK_KIND_TRAIN),
        "GetSample": pb.GetSampleRequest(group="g00000900", index=1),
        "GetLineage": [pb.GetLineageRequest(sample="g00000000/0"), pb.GetLineageRequest(step=1)],
    }
    async with running(coordinator.run(), within=240), rpc.Server("coordinator") as server:
        adder = coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server
        server.add(adder, CoordinatorServicer(coordinator))
        await server.start()
        assert await assault(server.address, SERVICE, seeds) == []
        async with rpc.channel(server.address, default_seconds=10) as channel:
            stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
            found = await rpc.call(stub.GetSample(seeds["GetSample"]))
            assert found.sample.reward == 1.0
            run = (await rpc.call(stub.GetRun(pb.GetRunRequest()))).run
            assert run.state in (pb.RUN_STATE_STOPPING, pb.RUN_STATE_STOPPED)
            assert run.reason == "stopped by a user"  # the first that was asked stands
