"""`bazel run //:quickstart`: a tiny language model gets visibly better by asynchronous GRPO, in minutes, on two cores.

    assets (random model, data)  ->  supervised warm-up  ->  asynchronous GRPO  ->  what came of it

Two ordinary runs of two ordinary recipes; nothing here is special but the words it prints.
"""

import asyncio
import json
import os
import pathlib
import shutil
from typing import Annotated

import plotext
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock import rpc
from penstock.cli.screen import train
from penstock.cli.training import Training
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.names import evaluation_group
from penstock.recipes import Recipe, RecipeError, load
from penstock.system import exits
from penstock.terminal import plain
from penstock.tiny_model import make_assets

SHOWN = 3


def main(
    runs: Annotated[pathlib.Path, typer.Option(help="folder of run directories")] = pathlib.Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="remove an earlier quickstart and start over")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, on top of the GRPO recipe")] = None,
) -> None:
    """Make a tiny model, warm it up, train it by asynchronous GRPO, and show what it learned."""
    raise typer.Exit(asyncio.run(quickstart(runs, fresh, overrides or [])))


async def quickstart(runs: pathlib.Path, fresh: bool, overrides: list[str]) -> int:
    """The exit code of the whole; every artefact is below `runs`."""
    console = Console()
    assets = runs / "quickstart-assets"
    if fresh:
        for name in ("quickstart-assets", "quickstart-sft", "quickstart"):
            shutil.rmtree(runs / name, ignore_errors=True)
    if (runs / "quickstart" / "export").is_dir():
        console.print(f"{runs / 'quickstart'} holds a finished quickstart; add --fresh to start over", highlight=False)
        return exits.BAD_INPUT
    if not (assets / "eval.jsonl").is_file():
        console.print("making a random model of a million parameters, and its task")
        await asyncio.to_thread(make_assets, assets)
    warm = runs / "quickstart-sft" / "export"
    if not warm.is_dir():
        console.rule("1/2  supervised warm-up")
        code = await train(_recipe("quickstart-sft", runs, []), runs, console)
        if code != exits.DONE or not warm.is_dir():
            return code
    console.rule("2/2  asynchronous GRPO")
    samples: list[tuple[str, pb.Sample]] = []

    async def look(run: Training) -> None:
        steps = (await rpc.call(run.stub.GetRun(pb.GetRunRequest(), timeout=10))).run.max_steps
        for when, step in (("before", 0), ("after", steps)):
            for i in range(SHOWN):
                request = pb.GetSampleRequest(group=evaluation_group(step, i), index=0)
                samples.append((when, (await rpc.call(run.stub.GetSample(request, timeout=10))).sample))

    try:
        recipe = _recipe("quickstart-grpo", runs, overrides)
    except RecipeError as error:
        Console(stderr=True).print(str(error), highlight=False)
        return exits.BAD_INPUT
    code = await train(recipe, runs, console, look)
    if samples:
        _report(console, runs / "quickstart", samples)
    return code


def _recipe(name: str, runs: pathlib.Path, overrides: list[str]) -> Recipe:
    """A quickstart recipe with its paths below `runs`."""
    path = pathlib.Path(os.environ.get("PENSTOCK_RUNFILES", "."), "deploy", "recipes", f"{name}.yaml")
    assets = runs / "quickstart-assets"
    paths = [f"data.train={assets / ('sft.jsonl' if name.endswith('sft') else 'train.jsonl')}"]
    if name.endswith("sft"):
        paths += [f"model.path={assets / 'model'}"]
    else:
        paths += [f"model.path={runs / 'quickstart-sft' / 'export'}", f"data.eval={assets / 'eval.jsonl'}"]
    return load(path, [*paths, *overrides])


def _report(console: Console, folder: pathlib.Path, samples: list[tuple[str, pb.Sample]]) -> None:
    """Before and after, the curve, and where things are."""
    summary = json.loads((folder / "summary.json").read_text())
    first, last = summary["eval"][0], summary["eval"][-1]
    rewards = [json.loads(line)["rl.reward.mean"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plotext.clear_figure()
    plotext.plot(list(range(1, len(rewards) + 1)), rewards, marker="braille")
    plotext.title("mean reward per step")
    plotext.ylim(0, 1)
    plotext.plotsize(min(console.width, 80), 15)
    plotext.theme("clear")
    console.print(Text.from_ansi(plotext.build()))
    table = Table("", "prompt", "completion", "right?", title="held-out samples, before and after")
    for when, s in samples:
        table.add_row(when, plain(s.prompt), plain(s.completion), "yes" if s.reward == 1.0 else "no")
    console.print(table)
    console.print(
        f"held-out accuracy: [bold]{first['reward']:.1%}[/bold] before, [bold]{last['reward']:.1%}[/bold] after "
        f"{summary['steps']} steps of GRPO ({(last['reward'] - first['reward']) * 100:+.1f} points) "
        f"in {summary['wall_seconds']:.0f} s",
        highlight=False,
    )
    for what, where in (
        ("trained model (Hugging Face format)", "export"),
        ("metrics, one object per step", "metrics.jsonl"),
        ("summary", "summary.json"),
        ("logs", "logs"),
        ("checkpoints", "checkpoints"),
    ):
        console.print(f"  {what}: {folder / where}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
