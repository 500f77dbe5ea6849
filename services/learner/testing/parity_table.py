"""Prints what the parity tests measured: one row a layout, largest errors against one process.

A hook of pytest: the conftest.py of each backend names it.
"""

import sys
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    measured = sys.modules.get("services.learner.parity_testing")
    rows: list[dict[str, str]] = measured.ROWS if measured is not None else []
    if not rows:
        return
    width = max(len(row["test"]) for row in rows)
    terminalreporter.section("largest errors against one process")
    for row in [{name: name for name in rows[0]}, *rows]:
        test, *errors = row.values()
        terminalreporter.write_line(f"{test:{width}}  " + "  ".join(f"{error:>8}" for error in errors))
