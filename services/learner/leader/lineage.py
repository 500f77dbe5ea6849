"""Ties the trace of every recorded sample to the step that trained it, both ways.

The step's span links to the samples; each sample's trace gets a zero-length `trained` span that links to the step. So
one trace leads from a prompt to its gradient, and from a step to everything it learned from.
"""

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext

from penstock.telemetry.tracing import extract_string
from penstock.trajectory.v1 import trajectory_pb2 as pb

tracer = trace.get_tracer(__name__)


def tie(step: int, trajectories: Iterable[pb.Trajectory], seconds: float) -> None:
    """Writes the step's span and the samples' `trained` spans. Samples whose trace was not recorded cost nothing."""
    contexts = {t.traceparent: _context(t.traceparent) for t in trajectories if t.traceparent}
    recorded = {parent: context for parent, context in contexts.items() if context.trace_flags.sampled}
    attributes = {"step": step, "seconds": seconds}
    with tracer.start_as_current_span(
        "step", attributes=attributes, links=[Link(c) for c in recorded.values()]
    ) as span:
        link = Link(span.get_span_context())
    for parent in recorded:
        tracer.start_span("trained", context=extract_string(parent), links=[link], attributes={"step": step}).end()


def _context(traceparent: str) -> SpanContext:
    return trace.get_current_span(extract_string(traceparent)).get_span_context()
