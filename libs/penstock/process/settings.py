"""The flags that all services share, and what they name: credentials and the Prometheus endpoint.

Secrets never stand on a command line: tokens come from files, or from PENSTOCK_TOKEN.
"""

import argparse
import dataclasses
import os
import pathlib

from penstock.access import Identity
from penstock.rpc import Security, is_local
from penstock.telemetry import metrics


def flags(service: str, description: str, *, nats: bool = False) -> argparse.ArgumentParser:
    """A parser with the flags that all services share. nats: whether the service cannot do without a run's NATS."""
    parser = argparse.ArgumentParser(
        prog=f"penstock serve {service}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(service=service)
    parser.add_argument("--name", default=service, help="the instance's name in logs, waits and traces")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT of the gRPC server; port 0 takes a free one")
    parser.add_argument("--announce", type=pathlib.Path, help="file to which the bound address is written")
    parser.add_argument(
        "--metrics-port", type=int, default=0, help="port of the Prometheus endpoint; 0 takes a free one"
    )
    parser.add_argument("--metrics-host", default="127.0.0.1", help="where the Prometheus endpoint listens")
    parser.add_argument(
        "--trace-file", type=pathlib.Path, help="file for spans where OTEL_EXPORTER_OTLP_ENDPOINT is not set"
    )
    parser.add_argument("--trace-fraction", type=float, default=1.0, help="share of traces that are recorded")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--reflection", action="store_true", help="let tools list the RPCs (not in production)")
    parser.add_argument("--token-file", type=pathlib.Path, help="file with KIND:SECRET, or with one token for all")
    parser.add_argument("--callers-file", type=pathlib.Path, help="file that says whom to know by their kind's token")
    parser.add_argument("--insecure", action="store_true", help="listen beyond loopback with neither token nor TLS")
    parser.add_argument("--tls-ca", type=pathlib.Path, help="PEM of the authority that signs peers")
    parser.add_argument("--tls-certificate", type=pathlib.Path, help="PEM certificate of this service")
    parser.add_argument("--tls-key", type=pathlib.Path, help="PEM key of this service")
    parser.add_argument("--nats", required=nats, help="nats://HOST:PORT of the run it takes part in; several by commas")
    parser.add_argument(
        "--nats-token-file", type=pathlib.Path, help="file with what NATS wants: USER:PASSWORD, or a token"
    )
    parser.add_argument("--run", help="name of the run it takes part in, where no recipe says it")
    parser.add_argument("--advertise", help="HOST:PORT that others are told, where --listen says it not")
    parser.add_argument("--zone", help="where it is, so that others find what is near (else PENSTOCK_ZONE)")
    parser.add_argument("--ends-with-run", action="store_true", help="end by itself when the run is over")
    parser.add_argument(
        "--drain-seconds", type=float, default=10.0, help="how long calls in progress may take after SIGTERM"
    )
    return parser


def security(args: argparse.Namespace, *, listens: bool = True) -> Security:
    """The credentials that the flags name. listens: whether a gRPC server shows them, and not a caller alone.

    Raises OSError, or ValueError for half of a pair, what is no PEM, and what no server may listen with.
    """
    found = Security.of_files(
        token_file=args.token_file,
        callers_file=args.callers_file,
        authority=args.tls_ca,
        certificate=args.tls_certificate,
        key=args.tls_key,
        named=True,
    )
    if args.token_file is None and (text := os.environ.get("PENSTOCK_TOKEN")):
        identity = Identity.parsed(text)
        found = dataclasses.replace(found, identity=identity, token=None if identity else text)
    if listens:
        found.check_listening(args.listen)
    if not (args.insecure or found.token or found.callers or found.tls or is_local(args.listen)):
        raise ValueError(
            f"--listen {args.listen}: everybody who reaches it could call; give --token-file with TLS, or --insecure"
        )
    return found


def serve_metrics(args: argparse.Namespace, held: Security) -> int:
    """Serves Prometheus, to holders of a certificate alone where these settings are mutual TLS; the port.

    Raises OSError.
    """
    port, host = args.metrics_port, args.metrics_host
    if held.certificates is None or held.certificates.certificate is None:
        return metrics.serve(port, host=host)
    c = held.certificates
    return metrics.serve(port, host=host, certificate=c.certificate, key=c.key, authority=c.authority)
