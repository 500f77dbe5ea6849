"""A sample's trace and the step that trained it link to each other."""

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock.telemetry.tracing import inject_string
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.leader import lineage


def test_links_lead_both_ways() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with provider.get_tracer("rollout").start_as_current_span("sample") as sample:
        traceparent = inject_string()
    not_recorded = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
    trajectories = [pb.Trajectory(traceparent=p) for p in (traceparent, not_recorded, "")]
    lineage.tie(7, trajectories, 0.5)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    step, trained, origin = spans["step"], spans["trained"], sample.get_span_context()
    assert [link.context.trace_id for link in step.links] == [origin.trace_id]
    assert trained.context is not None and trained.context.trace_id == origin.trace_id
    assert trained.parent is not None and trained.parent.span_id == origin.span_id
    assert [link.context.span_id for link in trained.links] == [step.context.span_id if step.context else None]
    assert len(exporter.get_finished_spans()) == 3
