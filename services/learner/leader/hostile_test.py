"""The learner's control surface against every attack of the kit, beside what follows a real NATS server."""

import pathlib
from typing import Any

from penstock import rpc
from penstock.bus import EmbeddedServer, RunNames, append, connect, ensure_run
from penstock.learner.v1 import learner_pb2 as pb
from penstock.learner.v1 import learner_pb2_grpc
from penstock.testing.hostile_messages import assault
from penstock.trajectory.v1 import trajectory_pb2
from services.learner.interface.policy import Takes
from services.learner.leader.follow import Following
from services.learner.leader.server import Learner
from services.learner.leader.status import Status

SERVICE = pb.DESCRIPTOR.services_by_name["LearnerService"]
NAMES = RunNames("hostile")


async def test_every_rpc_withstands_hostile_requests(tmp_path: pathlib.Path) -> None:
    record = trajectory_pb2.BatchRecord(step=1)
    record.groups.add(group="g00000000", indices=[0], log_sequences=[1])
    status = Status(max_steps=3)
    async with EmbeddedServer(tmp_path / "nats", tmp_path / "nats.log") as nats:
        async with connect(nats.url, name="test", monitor_url=nats.monitor_url) as bus, rpc.Server("learner") as server:
            await ensure_run(bus, NAMES)
            following = Following(bus, NAMES, groups_per_step=1, trained_step=0, log_cursor=0, takes=Takes(100, 50))
            subject, payload = NAMES.ledger_batch_subject(1), record.SerializeToString()
            sequence = await append(bus, subject, payload, expected_last_sequence=0)
            admitted = trajectory_pb2.LedgerEvent(group="g00000000", admitted=trajectory_pb2.Admitted(group_size=1))
            following.ledger.apply_event(admitted, sequence)
            following.ledger.apply(subject, payload, sequence)
            adder = learner_pb2_grpc.add_LearnerServiceServicer_to_server
            server.add(adder, Learner(status, following, "checkpoints"))
            await server.start()
            seeds: Any = {"GetBatchRecord": pb.GetBatchRecordRequest(step=1), "Drain": pb.DrainRequest(finish=True)}
            assert await assault(server.address, SERVICE, seeds) == []
            async with rpc.channel(server.address, default_seconds=10) as channel:
                stub = learner_pb2_grpc.LearnerServiceStub(channel)
                assert (await rpc.call(stub.GetBatchRecord(seeds["GetBatchRecord"]))).record == record
                answer = await rpc.call(stub.GetStatus(pb.GetStatusRequest()))
                assert (answer.state, answer.max_steps) == (pb.GetStatusResponse.STATE_DRAINING, 3)
    assert status.drain_wanted.is_set()
