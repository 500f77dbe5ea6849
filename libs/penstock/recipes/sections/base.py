"""What every section is made of: strict and frozen, so that an unknown key or a value of another type is an error."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A mapping of the recipe; unknown keys and wrong types are errors.

    choosers: keys whose values decide what the section's other keys are where the recipe leaves them out.
    """

    choosers: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)
