"""Text of models, rows and services stands on the terminal as text, whatever is in it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from penstock.terminal import plain, table_of


def shown(renderable: object) -> str:
    """What a terminal gets."""
    console = Console(file=io.StringIO(), width=4000, force_terminal=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "text", ["[/INST]", "a[i]", "[bold]x[/bold]", "[link=http://e]", "\\[", "[[", ":smile:", "é 日本"]
)
def test_markup_is_text(text: str) -> None:
    assert text in shown(plain(text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb", r"a\rb"),
        ("\u202eevil", r"\u202eevil"),
        ("\x00", r"\x00"),
    ],
)
def test_what_would_steer_the_terminal_is_told(text: str, told: str) -> None:
    assert told in shown(plain(text))


@given(st.text(), st.text())
def test_no_text_raises_or_reaches_the_terminal_as_a_command(a: str, b: str) -> None:
    table = Table("x", "y")
    table.add_row(plain(a), plain(b))
    for said in (shown(table), shown(table_of({a: b}, "t")), shown(plain(a))):
        assert not any(ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160 for c in said)
