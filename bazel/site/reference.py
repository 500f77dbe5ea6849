"""Pages that are made of the code: the commands with their flags, the contracts, and what `penstock.sdk` gives."""

import inspect
import pathlib
from typing import Any

import typer

from penstock import sdk
from penstock.cli.main import app


def commands() -> str:
    """Every command of `penstock`."""
    root: Any = typer.main.get_command(app)
    parts = ["# Commands", "", "`penstock COMMAND --help` says the same.", ""]
    for name, command in sorted(root.commands.items()):
        inner = getattr(command, "commands", {"": command}).items()
        for sub, each in inner:
            parts += _command(f"{name} {sub}".strip(), each)
    return "\n".join(parts)


def _command(name: str, command: Any) -> list[str]:
    lines = [f"## {name}", "", inspect.cleandoc(command.help or ""), ""]
    rows = []
    for each in command.params:
        words = ", ".join(f"`{word}`" for word in each.opts) if each.param_type_name == "option" else f"`{each.name}`"
        said = getattr(each, "help", None) or ""
        default = each.default if isinstance(each.default, str | int | float) and each.default is not False else ""
        rows.append(f"| {words} | {str(said).replace('|', chr(92) + '|')} | {default} |")
    if rows:
        lines += ["| flag or argument | | default |", "|---|---|---|", *rows, ""]
    return lines


def contracts(tree: pathlib.Path) -> str:
    """The protos, whose comments are the reference."""
    parts = [
        "# Contracts",
        "",
        "Their comments are the reference; [Own rewards](../docs/write-a-reward.md) begins with them.",
        "",
    ]
    for path in sorted(tree.glob("proto/penstock/*/v1/*.proto")):
        parts += [f"## {path.stem}", "", "```proto", path.read_text().rstrip(), "```", ""]
    return "\n".join(parts)


def python() -> str:
    """What `penstock.sdk` gives: signatures and docstrings."""
    parts = ["# Python: penstock.sdk", "", inspect.cleandoc(sdk.__doc__ or ""), ""]
    for name in sdk.__all__:
        each = getattr(sdk, name)
        try:
            signature = str(inspect.signature(each))
        except (TypeError, ValueError):
            signature = ""
        parts += [f"## {name}", "", "```python", f"{name}{signature}", "```", "", inspect.getdoc(each) or "", ""]
        for method, function in vars(each).items() if inspect.isclass(each) else ():
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                parts += [f"**{method}**`{inspect.signature(function)}`", "", inspect.cleandoc(function.__doc__), ""]
    return "\n".join(parts)
