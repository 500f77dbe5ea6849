"""The page draws what is reported: every metric that it names is in the register of step metrics."""

import pathlib
import re

from penstock.telemetry import steps

STATIC = pathlib.Path(__file__).parent / "static"


def test_every_metric_of_the_page_is_one_of_a_step() -> None:
    named = {
        name for path in STATIC.glob("*.js") for name in re.findall(r"\brl\.[a-z0-9_.]+[a-z0-9]", path.read_text())
    }
    assert len(named) > 10, "the page names its metrics otherwise: this test would prove nothing"
    families = steps.register()  # the page has charts of whole families
    assert [name for name in steps.unknown(named) if name not in families] == []
