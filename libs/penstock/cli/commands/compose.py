"""`penstock compose`: a recipe's run as one Compose file."""

import os
import pathlib
from typing import Annotated

import typer
import yaml

from penstock.cli.commands.kube import Accelerator, Files, Images, Tag, moved, secrets_of
from penstock.cli.words import Overrides
from penstock.kube import Place, kept
from penstock.kube import compose as composed
from penstock.kube.containers import USER
from penstock.recipes import RecipeError, load
from penstock.system.secret_files import write_secret
from penstock.terminal import console, failed, plain


def compose(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Overrides = None,
    files: Files = pathlib.Path(),
    output: Annotated[
        pathlib.Path, typer.Option(help="folder for the file, and for what the run keeps")
    ] = pathlib.Path("compose"),
    images: Images = Place.images,
    tag: Tag = Place.tag,
    accelerator: Accelerator = Place.accelerator,
) -> None:
    """Write a recipe's run for `docker compose up` on this host: every service in a container of its own."""
    if accelerator not in ("cpu", "cuda"):
        raise failed(f"--accelerator: {accelerator!r} is neither cpu nor cuda")
    place = Place(images=images, tag=tag, files=str(files.absolute()), accelerator=accelerator)
    owner = (os.getuid(), os.getgid()) if os.getuid() else (USER, USER)
    try:
        there = moved(load(recipe, overrides or []), files.absolute(), output)
        key, users = secrets_of(output, there.run)
        content, beside = composed(there, place, key, users, "{}:{}".format(*owner))
        for name, text in beside.items():
            write_secret(output / name, text) if name.startswith("secrets/") else (output / name).write_text(text)
        for folder in kept():
            (output / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        (output / "compose.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=160))
        _given(output, owner)
    except (RecipeError, OSError, ValueError) as error:
        raise failed(str(error)) from error
    console.print(plain(f"{output / 'compose.yaml'}; then: docker compose -f {output / 'compose.yaml'} up -d"))


def _given(output: pathlib.Path, owner: tuple[int, int]) -> None:
    """To the containers' user, what they keep and are shown, where it is root who wrote it."""
    if os.getuid():
        return
    for name in ("kept", "secrets"):
        for path in (output / name, *(output / name).rglob("*")):
            os.chown(path, *owner)
