"""penstock serve weight_sync: stores and serves policy versions."""

import argparse
import contextlib
import pathlib
import sys

from penstock import fetching, rpc
from penstock.process import Process, flags, run, security
from penstock.rpc import AddressInUse
from penstock.system.locks import alone
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.bulk import Bulk
from services.weight_sync.relaying.following import Following
from services.weight_sync.relaying.relay import Relay
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.serving import Serving
from services.weight_sync.store import VersionStore


async def serve(process: Process, args: argparse.Namespace) -> None:
    quota = int(args.staged_gib * (1 << 30))
    with contextlib.ExitStack() as stack:
        if args.relay:
            args.directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                alone(args.directory, "give this relay another --name and --directory, or end that one")
            )
        store = VersionStore(args.directory, args.keep, quota, tries=args.canaries > 0, follows=args.relay)
        bulk = stack.enter_context(bulk_of(process, args))
        if args.relay:
            await relay(process, store, bulk)
            return
        _add(process, WeightSync(store, args.canaries, bulk))
        await process.serving()


async def relay(process: Process, store: VersionStore, bulk: Bulk | None) -> None:
    """Serves what the run's weight_sync has promoted."""
    part = process.joined
    address = await part.address_of("weight_sync")
    async with rpc.channel(address, security=process.security, stream_seconds=86400) as channel:
        source = fetching.Source(channel, fetching.Bulk.beside(address, process.security))
        following = Following(store, source, process.name)
        _add(process, Relay(store, bulk, following))
        await process.serving(following.run(), part.until_moved("weight_sync", address))


def _add(process: Process, servicer: Serving) -> None:
    process.server.add(
        weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
        servicer,
        raw_requests=RAW_REQUESTS,
        raw_responses=RAW_RESPONSES,
    )


def bulk_of(process: Process, args: argparse.Namespace) -> contextlib.AbstractContextManager[Bulk | None]:
    """The socket for whole versions, where the server listens on a network. Raises AddressInUse."""
    if args.listen.startswith("unix:"):
        return contextlib.nullcontext()
    host = args.listen.rpartition(":")[0].strip("[]")
    try:
        return Bulk(host, args.bulk_port, process.security.certificates)
    except OSError as error:
        raise AddressInUse(f"--bulk-port: cannot listen on {host}:{args.bulk_port}: {error.strerror}") from error


def shown_by(args: argparse.Namespace) -> str | None:
    """The kind whose credentials the flags name; None where they name none, or cannot be read."""
    try:
        identity = security(args).identity
    except (OSError, ValueError):
        return None  # which is said where they are used
    return identity.kind if identity is not None else None


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
    parser.add_argument(
        "--relay", action="store_true", help="fetch what the run's weight_sync promotes, and serve it to this --zone"
    )
    args = parser.parse_args()
    if args.canaries < 0:
        parser.error(f"--canaries: {args.canaries} is less than 0, which serves every version at once")
    if args.relay:
        args.part = "relay"
        if args.nats is None:
            parser.error("--relay: which run is it a relay of? --nats and --run say it")
        if args.canaries:
            parser.error(f"--canaries: {args.canaries} with --relay: weight_sync tries versions, a relay serves them")
        if (kind := shown_by(args)) not in (None, "relay"):
            parser.error(f"--token-file: it is the {kind}'s; a relay shows one of its own kind, relay.token")
    return run(args, serve)


if __name__ == "__main__":
    sys.exit(main())
