"""penstock serve weight_sync: stores and serves policy versions."""

import argparse
import pathlib
import sys

from penstock.process import Process, flags, run
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.server import WeightSync
from services.weight_sync.store import VersionStore


async def serve(process: Process, args: argparse.Namespace) -> None:
    process.server.add(
        weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
        WeightSync(VersionStore(args.directory, args.keep)),
        raw_requests=["PushTensors"],
        raw_responses=["FetchTensors"],
    )
    await process.serving()


def main() -> int:
    parser = flags("weight_sync", "Stores and serves policy versions.")
    parser.add_argument("--directory", type=pathlib.Path, required=True, help="where versions are kept (disk or tmpfs)")
    parser.add_argument("--keep", type=int, default=4, help="READY versions kept; older ones are retired")
    return run(parser.parse_args(), serve)


if __name__ == "__main__":
    sys.exit(main())
