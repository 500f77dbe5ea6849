"""`penstock kube`: a recipe's run as Kubernetes manifests."""

import glob
import pathlib
import re
from typing import Annotated, Any

import typer
import yaml

from penstock.bus import User
from penstock.cli.credentials import make_secrets, page_key_of, users_of
from penstock.cli.words import Overrides
from penstock.kube import Place, overlay, written
from penstock.kube.containers import FILES
from penstock.recipes import Recipe, RecipeError, dump, load, recorded
from penstock.system.secret_files import write_secret
from penstock.terminal import console, failed, plain

FILED = ("path", "train", "eval")
"""Keys of a recipe whose values may be names of files."""
KEPT = ".kept"
"""Beside what is written: the run's secrets, which are the same when it is written again."""
Files = Annotated[pathlib.Path, typer.Option(help="folder with the model and the rows of the recipe")]
Images = Annotated[str, typer.Option(help="what the images' names begin with")]
Tag = Annotated[str, typer.Option(help="the images' tag")]
Accelerator = Annotated[str, typer.Option(help="cpu or cuda")]


def kube(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Overrides = None,
    files: Files = pathlib.Path(),
    output: Annotated[pathlib.Path, typer.Option(help="folder for the manifests")] = pathlib.Path("kubernetes"),
    namespace: Annotated[str, typer.Option(help="namespace of the run: one for each")] = Place.namespace,
    images: Images = Place.images,
    tag: Tag = Place.tag,
    claim: Annotated[
        str, typer.Option(help="persistent volume claim with what --files has; with a slash, a path of the nodes")
    ] = Place.files,
    accelerator: Accelerator = Place.accelerator,
    name: Annotated[str | None, typer.Option("--overlay", help="the overlay's name; the run's if not given")] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(help="what the cluster has beside Kubernetes: monitoring, autoscaling, tls; repeat for more"),
    ] = None,
) -> None:
    """Write a recipe's run for `kubectl apply -k`, as a base and an overlay: one namespace, closed by policies."""
    if accelerator not in ("cpu", "cuda"):
        raise failed(f"--accelerator: {accelerator!r} is neither cpu nor cuda")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise failed(f"--overlay: {name!r} is no name of a folder")
    place = Place(namespace, images, tag, claim, accelerator)
    try:
        there = moved(load(recipe, overrides or []), files.absolute(), output)
        own = output / "overlays" / (name or there.run)
        own.mkdir(parents=True, exist_ok=True)
        made = overlay(there, place, *secrets_of(own, there.run), dict.fromkeys(component or ()))
        written(output, own.name, made)
    except (RecipeError, OSError, ValueError) as error:
        raise failed(str(error)) from error
    console.print(plain(f"{claim} is to hold what {files.absolute()} has; then: kubectl apply -k {own}"))


def secrets_of(output: pathlib.Path, run: str) -> tuple[str, dict[str, User]]:
    """What opens the run's page, and whom its NATS lets in, made with the first call. Raises OSError, ValueError."""
    kept = output / KEPT
    kept.mkdir(mode=0o700, exist_ok=True)
    make_secrets(kept, run)
    return page_key_of(kept), users_of(kept, run)


def moved(recipe: Recipe, files: pathlib.Path, output: pathlib.Path) -> Recipe:
    """The recipe with its files where containers have them. Raises ValueError for one that is not below `files`, and
    for packages, which containers have in their images alone."""
    if recipe.packages.folder is not None:
        raise ValueError(
            f"packages.folder: {recipe.packages.folder!r} is a folder of this host; build images that have its "
            "packages (a Containerfile FROM ours), and leave it out"
        )
    said = _renamed(yaml.safe_load(dump(recipe)), files)
    output.mkdir(parents=True, exist_ok=True)
    beside = output / ".recipe.yaml"
    write_secret(beside, yaml.safe_dump(said))
    try:
        return recorded(beside)
    finally:
        beside.unlink()


def _renamed(value: Any, files: pathlib.Path, key: str = "") -> Any:
    """What names files of here, as containers have it: values of FILED, and whatever else looks like a path."""
    if isinstance(value, dict):
        return {name: _renamed(each, files, f"{key}.{name}".lstrip(".")) for name, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, files, key) for each in value]
    if not isinstance(value, str) or "://" in value or not ("/" in value or key.rpartition(".")[2] in FILED):
        return value
    path = pathlib.Path(value).absolute()
    if not (glob.glob(value) if glob.has_magic(value) else path.exists()):
        return value  # a name of a hub's, or of a library's
    if not path.is_relative_to(files):
        raise ValueError(f"{key}: {value} is not below {files}; --files names the folder that has all of the recipe's")
    return f"{FILES}/{path.relative_to(files)}"
