"""What a recipe's folder of packages holds, said in the recipe when a run starts and held to ever after."""

import pathlib

from penstock.packages import Overlay
from penstock.recipes.loading import RecipeError
from penstock.recipes.recipe import Recipe


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with what its folder of packages holds. A replay asks no reward, and takes the folder as it is.

    Raises:
        RecipeError: there is no such folder, or something else in it than the recipe says.
    """
    asked = recipe.packages
    if asked.folder is None or recipe.mode == "replay":
        return recipe
    overlay = Overlay(pathlib.Path(asked.folder).absolute())
    if not overlay.site.is_dir():
        words = f"packages.folder: {asked.folder!r} is no folder of packages; `penstock env add` makes one"
        raise RecipeError("recipe", [words])
    found = overlay.sha256()
    if asked.sha256 not in (None, found):
        words = f"packages.sha256: {asked.folder} holds other packages now: {found}, not {asked.sha256}"
        raise RecipeError("recipe", [f"{words}; null takes them as they are"])
    packages = asked.model_copy(update={"folder": str(overlay.folder), "sha256": found})
    return recipe.model_copy(update={"packages": packages})
