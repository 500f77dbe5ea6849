"""A run goes on with the packages that it began with, or not at all."""

import pathlib
from typing import Any

import pytest

from penstock.recipes import RecipeError, resolve
from penstock.recipes.pinning import pinned


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "packages" / "site").mkdir(parents=True)
    (tmp_path / "packages" / "site" / "mine.py").write_text("")
    return tmp_path / "packages"


def test_a_recipe_says_what_its_folder_holds_and_goes_on_with_nothing_else(
    raw: dict[str, Any], folder: pathlib.Path
) -> None:
    recipe = pinned(resolve(raw, [f"packages.folder={folder}"]))
    assert recipe.packages.sha256 is not None and pinned(recipe) == recipe
    (folder / "site" / "mine.py").write_text("changed")
    with pytest.raises(RecipeError, match="packages.sha256: .* holds other packages now"):
        pinned(recipe)
    replayed = recipe.model_copy(update={"mode": "replay"})
    assert pinned(replayed) == replayed


def test_a_folder_without_packages_is_refused(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="is no folder of packages; `penstock env add` makes one"):
        pinned(resolve(raw, [f"packages.folder={tmp_path}"]))
    assert pinned(resolve(raw)).packages.sha256 is None
