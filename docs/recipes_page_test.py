"""The committed reference of recipes is the one that the recipe's types make."""

import pathlib

from docs.generate_recipes import page


def test_the_committed_page_is_current() -> None:
    committed = (pathlib.Path(__file__).parent / "recipes.md").read_text()
    assert committed == page(), "run: python docs/generate_recipes.py"
