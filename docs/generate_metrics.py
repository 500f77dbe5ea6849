"""Writes docs/metrics.md from the register of step metrics, and from the sources of what processes export, so that the
page names what is reported and nothing else.

    python docs/generate_metrics.py            # after a change of libs/penstock/telemetry/steps.py, or of a metric

`metrics_page_test.py` fails where the committed page is not the one that this makes.
"""

import pathlib
from collections.abc import Callable, Iterable

from penstock.telemetry import steps
from penstock.telemetry.evaluations import EVALUATIONS
from penstock.telemetry.exported import exported
from penstock.telemetry.tracked import tracked, tracked_evaluation

HERE = pathlib.Path(__file__).parent
PROCESSES = """
## What processes export: `/metrics`

Every service serves these on `--metrics-port` (`penstock status` and the member record have the address; on Kubernetes
the port is 9400), beside those of Python's own process. Names are stable: rules and dashboards name them. A histogram
has `_bucket`, `_sum` and `_count`. Those of a library are in the processes that use it.

"""
INTRODUCTION = """# Metrics of a step

One record of `metrics.jsonl` per optimizer step: `step`, `time` (seconds since the epoch) and the metrics below, as far
as the method has them. An alert (`telemetry.alerts`) may be set on every metric of the first table; one on a family
(`rl.failed`) watches each of its members. What the processes export to Prometheus is the last table.

## What trackers get

TensorBoard, Weights & Biases and MLflow have all of this under the names of the last column, which are the same in all
of them, over the step (in W&B the axis is `train/step`), and beside it:

- every evaluation at the version it measured (last table), with up to 16 of its samples as a table:
  `eval/sample_texts`, in MLflow the artifact `eval/sample_texts-<step>.json`;
- the resolved recipe: W&B's config, MLflow's params (what a resumed run has changed: tags `changed.<key>`), in
  TensorBoard a text; tags with algorithm, model and mode; the paths of run directory, checkpoints and export;
- how the run ended. Failed is failed everywhere. Stopped is `KILLED` in MLflow; W&B knows no such state, so its
  summary's `state` has the word. A process that ends before the run does leaves `interrupted`.

A run's id there is made of its name, user, host and the time of its first start, and kept in `trackers.json` of its
directory: a resumed run goes on in the same one, and nothing is said twice. Trackers work in threads of their own. One
that hangs or fails costs the tracking alone, and the end of a run waits 5 seconds for all of them: the coordinator's
log says once what a tracker did not take and at the end how much, and `metrics.jsonl` and `evaluations.jsonl` have
all of it. A recipe that names a tracker whose package is not installed is refused by `penstock config` and `train`;
[`penstock env add`](environments.md#your-own-packages) installs it.
"""


def page() -> str:
    """The whole page."""
    metrics = list(steps.register().values())
    reported, others = [m for m in metrics if m.reported], [m for m in metrics if not m.reported]
    return (
        INTRODUCTION
        + _table("What the learner reports", reported, tracked)
        + _table("What the coordinator adds when a step ends", others, tracked)
        + _table("What an evaluation says: `evaluations.jsonl`", EVALUATIONS, tracked_evaluation)
        + _exported()
    )


def _exported() -> str:
    rows = "".join(
        f"| `{each.flat[0].removesuffix('_bucket')}` | {each.kind} | {', '.join(each.labels)} | {each.meaning} | "
        f"{', '.join(each.made_by)} |\n"
        for each in exported(HERE.parent)
    )
    return f"{PROCESSES}| metric | kind | labels | meaning | made by |\n|---|---|---|---|---|\n{rows}"


def _table(title: str, metrics: Iterable[steps.StepMetric], tracked_name: Callable[[str], str]) -> str:
    rows = "".join(
        f"| `{m.name + _each(m)}` | {m.unit} | {m.meaning} | `{_tracked(m, tracked_name)}` |\n" for m in metrics
    )
    return f"\n## {title}\n\n| metric | unit | meaning | in trackers |\n|---|---|---|---|\n{rows}"


def _each(metric: steps.StepMetric) -> str:
    """What follows a family's name."""
    if not metric.each:
        return ""
    return f"<{metric.each}>" if metric.name[-1] in ".@" else f".<{metric.each}>"


def _tracked(metric: steps.StepMetric, name_of: Callable[[str], str]) -> str:
    """As trackers have it: the place of a member's name is no part of what is translated."""
    stand_in = _each(metric).replace("<", "").replace(">", "")
    return name_of(metric.name + stand_in).removesuffix(metric.each) + (f"<{metric.each}>" if metric.each else "")


if __name__ == "__main__":
    (HERE / "metrics.md").write_text(page())
