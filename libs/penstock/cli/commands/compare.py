"""`penstock plot` and `penstock compare`: runs beside each other, from their files."""

import difflib
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated

import typer
import yaml
from rich.table import Column, Table

from penstock.cli.words import DEFAULT_RUNS, Runs, unknown_run
from penstock.histories.history import MANY, History, different, finals
from penstock.terminal import console, failed, plain

Names = Annotated[list[str], typer.Argument(help="names of runs")]
FORMATS = (".png", ".svg", ".pdf")


def plot(
    names: Names,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="repeat for more")] = None,
    output: Annotated[pathlib.Path | None, typer.Option(help="a .png, .svg or .pdf instead of the terminal")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Draw metrics of runs over their steps (rl.reward.mean where none is named), on the terminal or into a file."""
    histories, wanted = _histories(names, runs), metric or ["rl.reward.mean"]
    known = sorted({name for history in histories for name in history.metrics})
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
            raise failed(f"no step of {', '.join(names)} has {name!r}; did you mean {', '.join(near) or 'none'}?")
    if output is None:
        for name in wanted:
            _on_terminal(histories, name)
        return
    if output.suffix not in FORMATS:
        raise failed(f"--output: {output.name!r} ends with none of {', '.join(FORMATS)}")
    try:
        _into_file(histories, wanted, output)
    except OSError as error:
        raise failed(f"--output: {output} cannot be written: {error.strerror}") from error
    console.print(f"wrote {output}", markup=False, highlight=False)


def compare(
    names: Names,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Compare runs: the settings on which they differ, and what they came to."""
    histories = _histories(names, runs)
    settings, numbers = different(histories), finals(histories)
    if as_json:
        typer.echo(json.dumps({"runs": [h.name for h in histories], "settings": settings, "numbers": numbers}))
        return
    table = Table("", *(Column(plain(history.name)) for history in histories))
    for key, values in settings.items():
        table.add_row(plain(key), *(plain("-" if value is None else value) for value in values))
    table.add_section()
    for key, found in numbers.items():
        table.add_row(plain(key), *("-" if value is None else f"{value:.4g}" for value in found))
    console.print(table)


def _histories(names: Sequence[str], runs: pathlib.Path) -> list[History]:
    if len(names) > MANY:
        raise failed(f"{len(names)} runs are too many to tell apart; at most {MANY}")
    for name in names:
        if not (runs / name / "recipe.yaml").is_file():
            raise failed(unknown_run(name, runs))
    try:
        return [History.of(runs / name) for name in names]
    except (OSError, yaml.YAMLError) as error:
        raise failed(f"the files of a run cannot be read: {error}") from error


def _on_terminal(histories: Sequence[History], metric: str) -> None:
    import plotext  # slow to import

    plotext.clear_figure()
    plotext.plotsize(min(console.width, 120), 20)
    plotext.title(metric)
    plotext.xlabel("step")
    for history in histories:
        steps, values = history.curve(metric)
        if steps:
            plotext.plot(steps, values, label=history.name)
    typer.echo(plotext.build())


def _into_file(histories: Sequence[History], metrics: Sequence[str], output: pathlib.Path) -> None:
    import matplotlib  # slow to import

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(metrics), squeeze=False, figsize=(8, 3.2 * len(metrics)), layout="constrained")
    for metric, (axis,) in zip(metrics, axes, strict=True):
        for history in histories:
            axis.plot(*history.curve(metric), label=history.name)
        axis.set_xlabel("step")
        axis.set_ylabel(metric)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(output, dpi=120)
    pyplot.close(figure)
