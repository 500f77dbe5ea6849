"""What programs of the house say to people on a terminal: text of others as text, tables, and why a command ends."""

import unicodedata
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.system import exits

console = Console()
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def failed(message: str, code: int = exits.BAD_INPUT) -> typer.Exit:
    """Says why a command ends; to be raised."""
    Console(stderr=True).print(plain(message), style="red")
    return typer.Exit(code)


def plain(text: object) -> Text:
    """Text that others wrote (models, rows, services) as it may stand on a terminal: no markup in it is read, and
    characters that would steer the terminal or turn its direction are shown by their number."""
    return Text("".join(_seen(c) for c in str(text)))


def _seen(character: str) -> str:
    steers = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
    return ascii(character)[1:-1] if steers or character in DIRECTIONS else character


def table_of(rows: dict[str, Any], title: str) -> Table:
    """A table of two columns."""
    table = Table(title=title, show_header=False)
    for key, value in rows.items():
        table.add_row(plain(key), plain(value))
    return table
