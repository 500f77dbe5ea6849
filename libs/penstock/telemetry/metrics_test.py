import urllib.request

import pytest

from penstock.telemetry import metrics


def test_metrics_are_served_under_flat_names() -> None:
    metrics.counter("rl.test.samples", "Samples.", ["kind"]).labels("train").inc(3)
    assert metrics.counter("rl.test.samples", "Samples.", ["kind"]) is metrics.counter("rl.test.samples", "x")
    port = metrics.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        assert 'rl_test_samples_total{kind="train"} 3.0' in page.read().decode()


def test_one_name_is_one_kind_of_metric() -> None:
    metrics.gauge("rl.test.level", "Level.")
    with pytest.raises(TypeError, match=r"rl\.test\.level"):
        metrics.counter("rl.test.level", "Level.")
