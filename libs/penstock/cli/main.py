"""The `penstock` command: starts runs and asks about them. Exit codes: 0 done, 1 the run failed, 2 bad input.

A new command is a function below commands/ and a line here.
"""

from typing import Annotated

import typer

from penstock.cli.commands import inspect
from penstock.cli.commands.audit import quarantine, verify
from penstock.cli.commands.compare import compare, plot
from penstock.cli.commands.compose import compose
from penstock.cli.commands.config import config
from penstock.cli.commands.create import create
from penstock.cli.commands.env import env
from penstock.cli.commands.evaluate import evaluate
from penstock.cli.commands.export import export
from penstock.cli.commands.fork import fork
from penstock.cli.commands.join import join_command
from penstock.cli.commands.kube import kube
from penstock.cli.commands.listing import ls
from penstock.cli.commands.logs import logs
from penstock.cli.commands.migrate import migrate
from penstock.cli.commands.page import page
from penstock.cli.commands.replay import replay
from penstock.cli.commands.scale import scale
from penstock.cli.commands.secrets import secrets
from penstock.cli.commands.serve import serve
from penstock.cli.commands.train import train
from penstock.cli.commands.versions import promote, reject, rollback, versions
from penstock.sdk.conformance.command import conformance
from penstock.system.version import VERSION
from penstock.terminal import console

app = typer.Typer(
    help="Post-train language models by asynchronous reinforcement learning, as services.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        console.print(f"penstock {VERSION}", highlight=False)
        raise typer.Exit()


Version = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="say the version, and end")
]


@app.callback()
def penstock(version: Version = False) -> None:
    """What stands before the command."""


app.command()(ls)
app.command()(plot)
app.command()(compare)
app.command()(inspect.status)
app.command()(inspect.watch)
app.command()(inspect.stop)
app.command()(inspect.pause)
app.command()(inspect.resume)
app.command()(inspect.explain)
app.command()(inspect.samples)
app.command()(inspect.lineage)
app.command()(logs)
app.command()(versions)
app.command()(promote)
app.command()(reject)
app.command()(rollback)
app.command()(fork)
app.command()(page)
app.command()(verify)
app.command()(quarantine)
app.command()(export)
app.command()(secrets)
app.command()(config)
app.command()(conformance)
app.command()(migrate)
app.command()(train)
app.command()(create)
app.command(name="join")(join_command)
app.command()(kube)
app.command()(compose)
app.command()(scale)
app.command(name="eval")(evaluate)
app.command()(replay)
app.add_typer(env, name="env")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(serve)


def main() -> None:
    """The console entry point."""
    app(prog_name="penstock")


if __name__ == "__main__":
    main()
