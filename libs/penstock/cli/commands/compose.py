"""`penstock compose`: a recipe's run as one Compose file."""

import os
import pathlib
from typing import Annotated

import typer
import yaml

from penstock.cli.commands.kube import Accelerator, Files, Images, Tag, moved, secrets_of
from penstock.cli.words import Overrides
from penstock.kube import Host, Place, kept
from penstock.kube import compose as composed
from penstock.kube.containers import USER
from penstock.recipes import RecipeError, load
from penstock.supervisor.devices import visible
from penstock.system.secret_files import write_secret
from penstock.terminal import console, failed, plain


def compose(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    files: Files,
    overrides: Overrides = None,
    output: Annotated[
        pathlib.Path, typer.Option(help="folder for the file, and for what the run keeps")
    ] = pathlib.Path("compose"),
    images: Images = Place.images,
    tag: Tag = Place.tag,
    accelerator: Accelerator = Place.accelerator,
    gpus: Annotated[int | None, typer.Option(help="GPUs of the host that runs it; those of this one")] = None,
    user: Annotated[str | None, typer.Option(help="UID:GID of the containers (0:0 for a rootless Docker)")] = None,
    otlp: Annotated[str, typer.Option(help="where services send their spans, as http://jaeger:4317")] = "",
) -> None:
    """Write a recipe's run for `docker compose up` on this host: every service in a container of its own."""
    if accelerator not in ("cpu", "cuda"):
        raise failed(f"--accelerator: {accelerator!r} is neither cpu nor cuda")
    if output.absolute().is_relative_to(files.absolute()):
        raise failed(f"--output: {output} is below --files {files}, which containers read: the run's secrets lie in it")
    there_are = len(visible()) if gpus is None else gpus
    if accelerator == "cuda" and there_are < 1:
        raise failed("--gpus: this host has none; how many has the one that will run it?")
    place = Place(images=images, tag=tag, files=str(files.absolute()), accelerator=accelerator)
    try:
        owner = _owner(user)
        there = moved(load(recipe, overrides or []), files.absolute(), output)
        key, users = secrets_of(output, there.run)
        content, beside = composed(there, place, key, users, Host("{}:{}".format(*owner), there_are, otlp))
        for name, text in beside.items():
            write_secret(output / name, text) if name.startswith("secrets/") else (output / name).write_text(text)
        for folder in kept():
            (output / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        (output / "compose.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=160))
        _given(output, owner)
    except (RecipeError, OSError, ValueError) as error:
        raise failed(str(error)) from error
    console.print(plain(f"{output / 'compose.yaml'}; then: docker compose -f {output / 'compose.yaml'} up -d"))


def _owner(user: str | None) -> tuple[int, int]:
    """Of the containers, and what they keep. Raises ValueError."""
    if user is None:
        return (os.getuid(), os.getgid()) if os.getuid() else (USER, USER)
    uid, _, gid = user.partition(":")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise ValueError(f"--user: {user!r} is no UID:GID, such as 1000:1000")
    return int(uid), int(gid)


def _given(output: pathlib.Path, owner: tuple[int, int]) -> None:
    """To the containers' user, what they keep and are shown, where it is root who wrote it."""
    if os.getuid():
        return
    for name in ("kept", "secrets", "recipe.yaml"):
        for path in (output / name, *(output / name).rglob("*")):
            os.chown(path, *owner)
