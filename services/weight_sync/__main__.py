"""penstock serve weight_sync: stores and serves policy versions."""

import argparse
import contextlib
import pathlib
import sys

from penstock.process import Process, flags, run
from penstock.rpc import AddressInUse
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.bulk import Bulk
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore


async def serve(process: Process, args: argparse.Namespace) -> None:
    quota = int(args.staged_gib * (1 << 30))
    store = VersionStore(args.directory, args.keep, quota, tries=args.canaries > 0)
    with bulk_of(process, args) as bulk:
        process.server.add(
            weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
            WeightSync(store, args.canaries, bulk),
            raw_requests=RAW_REQUESTS,
            raw_responses=RAW_RESPONSES,
        )
        await process.serving()


def bulk_of(process: Process, args: argparse.Namespace) -> contextlib.AbstractContextManager[Bulk | None]:
    """The socket for whole versions, where the server listens on a network. Raises AddressInUse."""
    if args.listen.startswith("unix:"):
        return contextlib.nullcontext()
    host = args.listen.rpartition(":")[0].strip("[]")
    try:
        return Bulk(host, args.bulk_port, process.security.certificates)
    except OSError as error:
        raise AddressInUse(f"--bulk-port: cannot listen on {host}:{args.bulk_port}: {error.strerror}") from error


def main() -> int:
    parser = flags("weight_sync", "Stores and serves policy versions.")
    parser.add_argument("--directory", type=pathlib.Path, required=True, help="where versions are kept (disk or tmpfs)")
    parser.add_argument("--keep", type=int, default=4, help="READY versions kept; older ones are retired")
    parser.add_argument("--staged-gib", type=float, default=512, help="most disk that versions being pushed may take")
    parser.add_argument(
        "--canaries", type=int, default=0, help="receivers that take each version on trial first; 0 serves it at once"
    )
    parser.add_argument(
        "--bulk-port", type=int, default=0, help="port for whole versions, beside --listen; 0: a free one"
    )
    args = parser.parse_args()
    if args.canaries < 0:
        parser.error(f"--canaries: {args.canaries} is less than 0, which serves every version at once")
    return run(args, serve)


if __name__ == "__main__":
    sys.exit(main())
