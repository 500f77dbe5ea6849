"""The committed page of metrics is the one that the register makes."""

import pathlib

from docs.generate_metrics import page


def test_the_committed_page_is_current() -> None:
    committed = (pathlib.Path(__file__).parent / "metrics.md").read_text()
    assert committed == page(), "run: python docs/generate_metrics.py"
