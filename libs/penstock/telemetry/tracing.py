"""Traces: where spans go, and how a trace crosses NATS.

Spans go to an OTLP collector if `OTEL_EXPORTER_OTLP_ENDPOINT` is set, else to a JSONL file, else nowhere. gRPC carries
the context by itself (`penstock.rpc`); messages carry it in a `traceparent` header (W3C), stored trajectories in a
string.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()
_HEADER = "traceparent"


class JsonlExporter(SpanExporter):
    """Appends each finished span to a file as one JSON object. Times are nanoseconds since the Unix epoch."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = "".join(json.dumps(_as_dict(span), default=str) + "\n" for span in spans)
        with self._lock:
            if self._file.closed:
                return SpanExportResult.FAILURE
            self._file.write(lines)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        with self._lock:
            self._file.close()


def _as_dict(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    assert context is not None
    return {
        "trace_id": format(context.trace_id, "032x"),
        "span_id": format(context.span_id, "016x"),
        "parent_id": format(span.parent.span_id, "016x") if span.parent else None,
        "service": span.resource.attributes.get("service.name"),
        "name": span.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
        "links": [format(link.context.trace_id, "032x") for link in span.links],
    }


def configure(
    service: str, *, run: str | None = None, path: Path | None = None, ratio: float = 1.0
) -> TracerProvider | None:
    """Sets up the process's traces. Call `shutdown()` on the result before the process ends, or spans are lost.

    Args:
        path: file for spans where no collector is configured.
        ratio: fraction of traces that start here and are kept; traces begun elsewhere follow their origin.

    Returns:
        None where neither a collector nor a path is given: nothing is traced then.
    """
    exporter: SpanExporter
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    elif path is not None:
        exporter = JsonlExporter(path)
    else:
        return None
    attributes = {"service.name": service} | ({"penstock.run": run} if run else {})
    provider = TracerProvider(resource=Resource.create(attributes), sampler=ParentBased(TraceIdRatioBased(ratio)))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)
    return provider


def inject(headers: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the message headers with the current trace context added (nothing outside a trace)."""
    carrier = dict(headers or {})
    _W3C.inject(carrier)
    return carrier


def extract(headers: Mapping[str, str]) -> Context:
    """The trace context that a message carries; the empty context where it carries none."""
    return _W3C.extract(dict(headers))


def unrecorded() -> bool:
    """Whether what happens here belongs to a trace that is not kept: then no spans are made for it either, and the word
    is passed on (`inject_string`). It is said once where a trace begins, for all of it."""
    context = trace.get_current_span().get_span_context()
    return context.is_valid and not context.trace_flags.sampled


@contextmanager
def span(tracer: trace.Tracer, name: str, attributes: Mapping[str, str | int]) -> Iterator[trace.Span]:
    """A span for the block, or the one around it where the trace is not kept."""
    if unrecorded():
        yield trace.get_current_span()
        return
    with tracer.start_as_current_span(name, attributes=attributes) as made:
        yield made


def inject_string() -> str:
    """The current trace context as one W3C `traceparent` string; empty outside a trace."""
    return inject().get(_HEADER, "")


def extract_string(traceparent: str) -> Context:
    """The inverse of `inject_string`; malformed strings give the empty context."""
    return extract({_HEADER: traceparent} if traceparent else {})
