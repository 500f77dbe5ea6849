import json
from pathlib import Path

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from penstock.telemetry import tracing


@pytest.fixture
def provider(tmp_path: Path) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(tracing.JsonlExporter(tmp_path / "trace.jsonl")))
    return made


def test_a_trace_crosses_messages_and_strings(provider: TracerProvider, tmp_path: Path) -> None:
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("prompt", attributes={"group": 7}) as span:
        headers, text = tracing.inject({"other": "kept"}), tracing.inject_string()
    assert headers["other"] == "kept" and headers["traceparent"] == text
    links = [trace.Link(span.get_span_context())]
    with tracer.start_as_current_span("train", context=tracing.extract(headers), links=links):
        pass
    prompt, train = (json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines())
    assert train["trace_id"] == prompt["trace_id"] and train["parent_id"] == prompt["span_id"]
    assert prompt["attributes"] == {"group": 7} and train["links"] == [prompt["trace_id"]]
    linked = trace.get_current_span(tracing.extract_string(text)).get_span_context()
    assert linked.span_id == span.get_span_context().span_id


def test_nothing_and_nonsense_give_the_empty_context() -> None:
    for carried in (tracing.extract({}), tracing.extract_string(""), tracing.extract_string("nonsense")):
        assert not trace.get_current_span(carried).get_span_context().is_valid
    assert tracing.inject_string() == ""


def test_without_a_sink_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert tracing.configure("t") is None


def test_a_trace_that_is_not_kept_has_no_spans_and_says_so(provider: TracerProvider, tmp_path: Path) -> None:
    left_out = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    tracer = provider.get_tracer("t")
    assert not tracing.unrecorded()
    token = context.attach(tracing.extract_string(left_out))
    try:
        with tracing.span(tracer, "sample", {"group": "g"}) as around:
            around.set_attribute("outcome", "fine")
            assert tracing.unrecorded() and tracing.inject_string() == left_out
    finally:
        context.detach(token)
    with tracing.span(tracer, "sample", {"group": "g"}):
        assert not tracing.unrecorded()
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 1
