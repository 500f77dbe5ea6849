"""What every section is made of: strict and frozen, so that an unknown key or a value of another type is an error."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from penstock.recipes.choices import Parameters

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A mapping of the recipe; unknown keys and wrong types are errors.

    choosers: keys whose values decide what the section's other keys are where the recipe leaves them out.
    """

    choosers: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


def filled(given: Mapping[str, Any], parameters: Parameters, prefix: str = "") -> dict[str, Any]:
    """The mapping, with the defaults of parameters that it leaves out."""
    missing = {prefix + k: default for k, default in parameters.items() if given.get(prefix + k) is None}
    return {**given, **missing}


def stated(section: Section, parameters: Iterable[str], prefix: str = "") -> dict[str, float]:
    """Those that the section states."""
    values = {name: getattr(section, prefix + name) for name in parameters}
    return {name: value for name, value in values.items() if value is not None}
