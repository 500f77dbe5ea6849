"""Writes docs/metrics.md from the register of step metrics, so that the page names what is reported and nothing else.

    python docs/generate_metrics.py            # after a change of libs/penstock/telemetry/steps.py

`metrics_page_test.py` fails where the committed page is not the one that this makes.
"""

import pathlib

from penstock.telemetry import steps

HERE = pathlib.Path(__file__).parent
INTRODUCTION = """# Metrics of a step

One record of `metrics.jsonl` per optimizer step, and one point in TensorBoard, Weights & Biases and MLflow: `step`,
`time` (seconds since the epoch) and the metrics below, as far as the method has them. An alert (`telemetry.alerts`) may
be set on every metric of the first table. Metrics of the processes (Prometheus) are on the [services' pages](index.md).
"""


def page() -> str:
    """The whole page."""
    metrics = list(steps.register().values())
    reported, others = [m for m in metrics if m.reported], [m for m in metrics if not m.reported]
    return (
        INTRODUCTION
        + _table("What the learner reports", reported)
        + _table("What the coordinator adds when a step ends", others)
    )


def _table(title: str, metrics: list[steps.StepMetric]) -> str:
    rows = "".join(f"| `{_name(m)}` | {m.unit} | {m.meaning} |\n" for m in metrics)
    return f"\n## {title}\n\n| metric | unit | meaning |\n|---|---|---|\n{rows}"


def _name(metric: steps.StepMetric) -> str:
    return f"{metric.name}.<{metric.each}>" if metric.each else metric.name


if __name__ == "__main__":
    (HERE / "metrics.md").write_text(page())
