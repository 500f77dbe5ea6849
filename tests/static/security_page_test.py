"""The tables of docs/security.md are those by which servers decide: every method and every subject, row for row."""

import pathlib

import pytest

from penstock.access import METHODS, Rule, subjects_of
from penstock.names import RunNames

PAGE = (pathlib.Path.cwd() / "BUILD.bazel").resolve().parent / "docs/security.md"


def method_row(method: str, rule: Rule) -> str:
    service, _, name = method.rpartition("/")
    size = f"{rule.bytes >> 20} MiB" if rule.bytes >= 1 << 20 else f"{rule.bytes >> 10} KiB"
    return f"| `{service.rpartition('.')[2]}/{name}` | {', '.join(sorted(rule.callers))} | {size} |"


def subject_rows() -> list[str]:
    """What each kind publishes, but for what it asks JetStream itself."""
    rows = []
    for kind, subjects in subjects_of(RunNames("RUN")).items():
        written = [f"`{each}`" for each in subjects.publish if not each.startswith(("$JS.API", "$JS.ACK"))]
        rows.append(f"| {kind} | {', '.join(written)} |")
    return rows


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("| `", [method_row(method, rule) for method, rule in METHODS.items()]),
        ("| NATS user", subject_rows()),
    ],
    ids=["methods", "subjects"],
)
def test_the_page_has_the_tables_by_which_servers_decide(first: str, expected: list[str]) -> None:
    lines = PAGE.read_text().splitlines()
    if first.startswith("| NATS"):
        start = next(i for i, line in enumerate(lines) if line.startswith(first)) + 2
        found = lines[start : start + len(expected) + 1]
        found = [line for line in found if line.startswith("|")]
    else:
        found = [line for line in lines if line.startswith(first) and line.endswith("iB |")]
    assert found == expected, "docs/security.md should say:\n" + "\n".join(expected)
