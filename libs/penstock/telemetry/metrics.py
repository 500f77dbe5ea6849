"""Metrics: names that all services share, one registry per process, and an HTTP endpoint for Prometheus.

Names follow the `rl.*` conventions proposed for OpenTelemetry. Prometheus has no dots: `rl.samples.admitted` is exposed
as `rl_samples_admitted_total`. Make metrics at import time with `counter`, `gauge`, `histogram`: asking again for the
same name gives the same metric.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics import MetricWrapperBase

from penstock.telemetry.renewing import renew_with_files

REGISTRY = CollectorRegistry(auto_describe=True)

SAMPLES_ADMITTED = "rl.samples.admitted"
SAMPLES_FINISHED = "rl.samples.finished"
GROUPS_RELEASED = "rl.groups.released"
TOKENS_GENERATED = "rl.tokens.generated"
REQUESTS_RUNNING = "rl.generation.running"
DRAFTS_PROPOSED = "rl.tokens.drafts.proposed"
DRAFTS_ACCEPTED = "rl.tokens.drafts.accepted"
ROUTES_DROPPED = "rl.routes.dropped"
TOKENS_TRAINED = "rl.tokens.trained"
REWARD_INVALID = "rl.reward.invalid"
REWARD_SECONDS = "rl.reward.duration"
EPISODES_OPEN = "rl.environment.episodes"
SESSIONS_OPEN = "rl.gateway.sessions"
WORKER_RESTARTS = "rl.environment.worker_restarts"
STEP = "rl.learner.step"
STEP_SECONDS = "rl.learner.step.duration"
STALLED = "rl.run.stalled"
TASKS_PENDING = "rl.tasks.pending"
OLDEST_GROUP = "rl.groups.oldest"
GROUPS_PASSED_OVER = "rl.groups.passed_over"
LOG_USED = "rl.log.used"
DISK_USED = "rl.system.disk"
CHECKPOINT_FAILURES = "rl.learner.checkpoint_failures"
VERSIONS_PUBLISHED = "rl.weights.versions"
WEIGHT_BYTES = "rl.weights.bytes"
WEIGHT_BYTES_SENT = "rl.weights.bytes_sent"
WEIGHT_BYTES_RECEIVED = "rl.weights.bytes_received"
DIFFERENCES_WRONG = "rl.weights.differences_wrong"
TICKETS_REFUSED = "rl.weights.tickets_refused"
RELAYS_PASSED_OVER = "rl.weights.relays_passed_over"
VERSION_HELD = "rl.weights.version"
VERSIONS_APPLIED = "rl.weights.applied"
PAUSE_SECONDS = "rl.weights.pause"
CERTIFICATE_ENDS = "rpc.certificate.ends_at"
CALLS_REFUSED = "rpc.server.calls_refused"
CALLS_WITHOUT_DEADLINE = "rpc.server.calls_without_deadline"
ENTRIES_QUARANTINED = "rl.entries.quarantined"
INCIDENTS = "rpc.server.incidents"

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)
_made: dict[str, MetricWrapperBase] = {}


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    """A number that only grows."""
    return _once(Counter, name, lambda flat: Counter(flat, help, labels, registry=REGISTRY))


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
    """A number that goes up and down."""
    return _once(Gauge, name, lambda flat: Gauge(flat, help, labels, registry=REGISTRY))


def histogram(
    name: str, help: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS
) -> Histogram:
    """A distribution; for durations in seconds unless `buckets` are given."""
    return _once(Histogram, name, lambda flat: Histogram(flat, help, labels, registry=REGISTRY, buckets=buckets))


def _once(kind: type[_Metric], name: str, make: Callable[[str], _Metric]) -> _Metric:
    if name not in _made:
        _made[name] = make(name.replace(".", "_"))
    metric = _made[name]
    if not isinstance(metric, kind):
        raise TypeError(f"metric {name} is a {type(metric).__name__} already")
    return metric


def serve(
    port: int,
    *,
    host: str = "127.0.0.1",
    certificate: Path | None = None,
    key: Path | None = None,
    authority: Path | None = None,
) -> int:
    """Serves `/metrics` from a daemon thread for the life of the process; returns the port (0 takes a free one).

    With a certificate and its key it is HTTPS, and with an authority for holders of a certificate of it alone. They
    are read again when they change.

    Raises:
        OSError: the port is taken.
    """
    said: dict[str, str | bool] = {}
    if certificate is not None and key is not None:
        said |= {"certfile": str(certificate), "keyfile": str(key)}
    if said and authority is not None:
        said |= {"client_cafile": str(authority), "client_auth_required": True}
    server, _ = start_http_server(port, addr=host, registry=REGISTRY, **said)  # type: ignore[arg-type]
    if certificate is not None and key is not None and isinstance(server.socket, ssl.SSLSocket):
        renew_with_files(server.socket, certificate, key, authority)
    return int(server.server_port)
