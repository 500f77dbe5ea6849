"""Writes docs/recipes.md from the recipe's own types, so that the reference cannot differ from what is accepted.

    python docs/generate_recipes.py            # after a change of libs/penstock/recipes/sections

The text above the tables is recipes_introduction.md; `recipes_page_test.py` fails where the committed page is not the
one that this makes.
"""

import pathlib
import types
import typing
from collections.abc import Iterator
from typing import Any

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from penstock.recipes import Recipe

HERE = pathlib.Path(__file__).parent
BOUNDS = ((at.Gt, "gt", ">"), (at.Ge, "ge", ">="), (at.Lt, "lt", "<"), (at.Le, "le", "<="))


def page() -> str:
    """The whole page."""
    return (HERE / "recipes_introduction.md").read_text() + "".join(_section("", Recipe))


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """The table of one section, then those of the sections inside it."""
    title = f"`{path}`" if path else "Top level"
    yield f"\n## {title}\n\n{(model.__doc__ or '').strip()}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        section = _model_of(field.annotation)
        if section is not None:
            many = typing.get_origin(field.annotation) is tuple
            inner.append((f"{path}.{name}".lstrip(".") + ("[]" if many else ""), section))
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {_meaning(field, section)} |\n"
    for below, section in inner:
        yield from _section(below, section)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *typing.get_args(annotation)]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _type(field: FieldInfo) -> str:
    text = _name(field.annotation)
    for entry in field.metadata:
        text += "".join(f" {sign} {getattr(entry, key):g}" for kind, key, sign in BOUNDS if isinstance(entry, kind))
        if getattr(entry, "pattern", None):
            text += f" like `{entry.pattern}`"
    return text


def _name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return "list of sections" if _model_of(annotation) else "list"
    if origin is typing.Annotated:
        return _name(arguments[0])
    if _model_of(annotation):
        return "section"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default is PydanticUndefined:
        return "its defaults"
    if field.default is None or field.default == ():
        return "absent" if field.default is None else "none"
    if isinstance(field.default, tuple) and isinstance(field.default[0], BaseModel):
        parts = (" ".join(f"{k} {v}" for k, v in m.model_dump(exclude_none=True).items()) for m in field.default)
        return "; ".join(f"`{part}`" for part in parts)
    text = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default}"
    return f"`{text}`"


def _meaning(field: FieldInfo, section: type[BaseModel] | None) -> str:
    text = field.description or (section.__doc__ or "").strip().splitlines()[0] if section else field.description or ""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    (HERE / "recipes.md").write_text(page())
