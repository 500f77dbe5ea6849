"""`json_schema`: is the completion JSON, and does it keep the row's schema?

    {"schema": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}}

The JSON is what stands between answer tags, else the last fenced block, else all that follows the thinking. 1 if it is
valid, else 0; with `"score": "share"` a half for JSON that breaks the schema. Component `parsed`: it is JSON. The
schema is judged by the package `jsonschema` in the draft that it names (2020-12 without `$schema`); references lead
into the schema itself alone, so nothing is fetched.

A schema that cannot be used is invalid. A completion never is: JSON that is nested without end, a number of thousands
of digits, or a text that makes a pattern run for ever is wrong, not unjudged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from penstock.sdk import Invalid, Sample, Scored, reward

SECONDS = 1.0
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


class BadSchema(ValueError):
    """The row's schema cannot be used."""


@reward(minimum=0.0, maximum=1.0, timeout=10)
def json_schema(sample: Sample) -> Scored | Invalid:
    """Is the completion JSON that keeps the row's `schema`? Component `parsed`."""
    if sample.row.get("score", "all") not in ("all", "share"):
        return Invalid(f'score must be "all" or "share", not {sample.row["score"]!r:.80}')
    try:
        validator = _validator(sample.row.get("schema"))
    except BadSchema as error:
        return Invalid(str(error))
    try:
        value = json.loads(_stated(sample.completion), parse_constant=_refused)
    except (ValueError, RecursionError):
        return Scored(0.0, {"parsed": 0.0})
    try:
        kept = validator.is_valid(value)
    except (RecursionError, OverflowError, TimeoutError):
        kept = False
    half = 0.5 if sample.row.get("score") == "share" else 0.0
    return Scored(1.0 if kept else half, {"parsed": 1.0})


def _stated(completion: str) -> str:
    text = completion.rpartition("</think>")[2]
    for form in (_ANSWER, _FENCED):
        if found := form.findall(text):
            return str(found[-1]).strip()
    return text.strip()


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _validator(schema: Any) -> Any:
    """What judges by the schema, given as an object or as its text. Raises BadSchema."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise BadSchema(f"the row's schema is no JSON: {error}"[:300]) from error
    if not isinstance(schema, dict | bool):
        raise BadSchema(f"the row's schema is {schema!r:.80}, not an object")
    drafted = validator_for(schema, default=Draft202012Validator)
    try:
        drafted.check_schema(schema)  # type: ignore[arg-type]  # a schema may be a bool
        for pattern in _said(schema, "pattern"):
            regex.compile(pattern)
        resource = specification_with(drafted.META_SCHEMA["$schema"], default=DRAFT202012).create_resource(schema)
        registry: Registry[Any] = Registry().with_resource("", resource)
        for reference in _said(schema, "$ref", "$dynamicRef"):
            if not reference.startswith("#"):
                raise BadSchema(f"the row's schema refers to {reference!r:.120}; references lead into it alone (#...)")
            registry.resolver().lookup(reference)
    except (SchemaError, Unresolvable, regex.error, RecursionError) as error:
        words = error.message if isinstance(error, SchemaError) else f"{type(error).__name__} {error}"
        raise BadSchema(f"the row's schema cannot be used: {words}"[:300]) from error
    return extend(  # type: ignore[no-untyped-call]
        drafted, {"pattern": _pattern, "patternProperties": _pattern_properties}
    )(schema, registry=registry)


def _said(schema: Any, *keys: str) -> Iterator[str]:
    """The texts that stand under the keys anywhere in it, but not where a property is only called so."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in keys and isinstance(value, str):
                yield value
            elif key not in ("const", "enum", "default", "examples"):
                yield from _said(value, *keys)
    elif isinstance(schema, list):
        for each in schema:
            yield from _said(each, *keys)


def _found(pattern: str, text: str) -> bool:
    """Raises TimeoutError."""
    return regex.search(pattern, text, timeout=SECONDS) is not None


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError(f"{instance!r:.80} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if isinstance(instance, Mapping):
        for pattern, schema in patterns.items():
            for name, value in instance.items():
                if _found(pattern, name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)
