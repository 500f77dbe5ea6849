"""The page draws what is reported: every metric that it names is in the register of step metrics."""

import pathlib
import re

from penstock.telemetry import steps

STATIC = pathlib.Path(__file__).parent / "static"


def test_every_metric_of_the_page_is_one_of_a_step() -> None:
    named = {name for path in STATIC.glob("*.js") for name in re.findall(r"\brl\.[a-z_.]+[a-z]", path.read_text())}
    assert len(named) > 10, "the page names its metrics otherwise: this test would prove nothing"
    assert steps.unknown(named) == []
