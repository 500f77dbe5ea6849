"""docs/migrating.md is what the converter does: every row is run through it."""

import pathlib
import re
from typing import Any

import pytest

from penstock.migrate import convert
from penstock.migrate.reading import flat
from penstock.recipes.loading import parse

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "migrating.md"
SYSTEMS = {"NeMo RL": "nemo-rl", "TRL": "trl", "verl": "verl"}
METHOD = {"nemo-rl": {"grpo.num_prompts_per_step": 32}, "trl": {}, "verl": {}}


def rows() -> list[tuple[str, dict[str, Any], dict[str, Any], str]]:
    """System, what is given, what comes out (nothing where the row says so), and the remark."""
    found = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        system = next(s for name, s in SYSTEMS.items() if section.startswith(name))
        for line in section.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) == 3 and cells[0].startswith("`"):
                found.append((system, keys(cells[0]), keys(cells[1]), cells[2]))
    return found


def keys(cell: str) -> dict[str, Any]:
    """`a.b: 1`, `c: x` as a mapping."""
    made: dict[str, Any] = {}
    for text in re.findall(r"`([^`]*)`", cell):
        made |= parse(text)
    return made


ROWS = rows()


def test_the_page_has_rows_of_every_system() -> None:
    assert {system for system, *_ in ROWS} == set(SYSTEMS.values()) and len(ROWS) > 120


@pytest.mark.parametrize(("system", "given", "expected", "remark"), ROWS, ids=lambda value: str(value)[:60])
def test_a_row_of_the_page(system: str, given: dict[str, Any], expected: dict[str, Any], remark: str) -> None:
    methods = ("grpo", "dpo", "sft", "rm")
    method = {} if any(key.split(".")[0] in methods for key in given) else METHOD[system]
    converted = convert(system, method | given)
    found = flat(converted.recipe)
    assert {key: found.get(key) for key in expected} == expected
    unknown = [line for line in converted.said if "unknown key" in line]
    assert not unknown
    if not expected:
        about = [line for line in converted.said if line.split(":")[0] in given]
        word = remark.split(":")[0].split(" (")[0].split(";")[0].strip("'")[:24]
        assert about and word in about[0], (about, remark)
