"""The numbers on the page are those that the planner gives."""

import pathlib

from docs.generate_parallelism import page


def test_the_committed_page_is_current() -> None:
    committed = (pathlib.Path(__file__).parent / "parallelism.md").read_text()
    assert committed == page(), "run: python docs/generate_parallelism.py"
