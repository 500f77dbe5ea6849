"""What the coordinator itself waits for, told beside what its peers say: none of them could tell."""

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.rpc.diagnostics import open_waits


def own_waits() -> list[pb.ServiceWaits]:
    """Nothing where it waits for nobody, or for NATS alone: where that is silent it ends within seconds."""
    waits = [wait for wait in open_waits() if not wait.idle and wait.on.partition(" ")[0] != "nats"]
    return [pb.ServiceWaits(service="coordinator", waits=waits)] if waits else []
