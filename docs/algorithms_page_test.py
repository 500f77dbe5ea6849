"""The committed page of algorithms is the one that the objectives make."""

import pathlib

from docs.generate_algorithms import page


def test_the_committed_page_is_current() -> None:
    committed = (pathlib.Path(__file__).parent / "algorithms.md").read_text()
    assert committed == page(), "run: python docs/generate_algorithms.py"
