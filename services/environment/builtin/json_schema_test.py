from __future__ import annotations

from typing import Any

import pytest

from penstock.sdk import Invalid, Sample, Scored
from services.environment.builtin.json_schema import json_schema

CITY = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}}
CASES: list[tuple[Any, str, float, float]] = [  # schema, completion, value, parsed
    (CITY, '{"city": "Rome"}', 1.0, 1.0),
    (CITY, '<think>{"city": 1}</think>\n```json\n{"city": "Rome"}\n```', 1.0, 1.0),
    (CITY, 'So: <answer>{"city": "Rome"}</answer>', 1.0, 1.0),
    (CITY, '{"city": "rome"}', 0.0, 1.0),
    (CITY, '{"town": "Rome"}', 0.0, 1.0),
    (CITY, "Rome", 0.0, 0.0),
    (CITY, "", 0.0, 0.0),
    (str(CITY).replace("'", '"'), '{"city": "Rome"}', 1.0, 1.0),
    ({"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}, "[1, 2]", 1.0, 1.0),
    ({"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}, "[1, 2.5]", 0.0, 1.0),
    ({"patternProperties": {"^a": {"type": "integer"}}}, '{"a1": "x"}', 0.0, 1.0),
    ({"patternProperties": {"^a": {"type": "integer"}}}, '{"b1": "x", "a": 1}', 1.0, 1.0),
    ({"properties": {"$ref": {"type": "string"}, "pattern": {"const": "("}}}, '{"pattern": "("}', 1.0, 1.0),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}}, '{"a": 1}', 0.0, 1.0),
    ({"type": "number"}, "NaN", 0.0, 0.0),
    ({"multipleOf": 0.5}, "1e999", 0.0, 1.0),
    ({}, "[" * 100_000, 0.0, 0.0),
    ({}, "9" * 5000, 0.0, 0.0),
    (True, "{}", 1.0, 1.0),
]


@pytest.mark.parametrize(("schema", "completion", "value", "parsed"), CASES)
async def test_json_is_judged_by_the_rows_schema(schema: Any, completion: str, value: float, parsed: float) -> None:
    found = await json_schema.score(Sample("0", completion=completion, row={"schema": schema}))
    assert found == Scored(value, {"parsed": parsed})


async def test_json_that_breaks_the_schema_may_earn_a_half() -> None:
    found = await json_schema.score(Sample("0", completion="{}", row={"schema": CITY, "score": "share"}))
    assert found == Scored(0.5, {"parsed": 1.0})


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "not an object"),
        ("{", "no JSON"),
        ({"type": "city"}, "cannot be used"),
        ({"pattern": "("}, "cannot be used"),
        ({"$ref": "#/$defs/none"}, "cannot be used"),
        ({"$ref": "other.json"}, "into it alone"),
    ],
)
async def test_a_schema_that_cannot_be_used_is_invalid_whatever_the_model_says(schema: Any, said: str) -> None:
    found = await json_schema.score(Sample("0", completion="no JSON", row={"schema": schema}))
    assert isinstance(found, Invalid) and said in found.reason


async def test_a_completion_cannot_make_itself_unjudged_by_a_pattern_that_runs_for_ever() -> None:
    row = {"schema": {"pattern": "^(a|aa)+$"}}
    assert await json_schema.score(Sample("0", completion=f'"{"a" * 60}b"', row=row)) == Scored(0.0, {"parsed": 1.0})
