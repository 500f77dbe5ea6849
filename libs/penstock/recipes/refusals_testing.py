"""What is wrong with a recipe, for tests that say what must be refused."""

from typing import Any

import pytest

from penstock.recipes import RecipeError, resolve


def problems(raw: dict[str, Any], *overrides: str) -> str:
    """All problems of a recipe with overrides, which must have one."""
    with pytest.raises(RecipeError) as error:
        resolve(raw, overrides)
    return "\n".join(error.value.problems)
