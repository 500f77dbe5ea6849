"""Three recipes of deploy/recipes as Kubernetes manifests, as `penstock kube` writes them, but for their secrets:
`python -m tests.manifests.examples FOLDER` (deploy/kubernetes has them).

The models and rows that they name need not be here.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator

import yaml

from penstock.access import Login, subjects_of
from penstock.bus import RunNames, User
from penstock.cli.commands.kube import moved
from penstock.kube import Place, overlay, written
from penstock.kube.writing import SECRETS
from penstock.recipes import Recipe

RECIPES = pathlib.Path("deploy/recipes")


@dataclasses.dataclass(frozen=True)
class Example:
    """A recipe, where it runs, and the components that are switched on."""

    recipe: str
    accelerator: str
    switched: tuple[str, ...] = ()


EXAMPLES = {
    "demo-cpu": Example("quickstart-grpo.yaml", "cpu"),
    "gpu-one-node": Example("gsm8k-qwen2.5-1.5b-8gpu.yaml", "cuda"),
    "gpu-many-nodes": Example("gsm8k-qwen3-32b-2nodes.yaml", "cuda", ("monitoring", "autoscaling")),
}


def read(example: Example) -> Recipe:
    """The recipe, with its files where containers have them."""
    text = (RECIPES / example.recipe).read_text()
    with tempfile.TemporaryDirectory() as folder, _in(pathlib.Path(folder)) as here:
        said = yaml.safe_load(text)
        for file in (said["model"]["path"], said["data"]["train"], said["data"]["eval"]):
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            (here / file).touch()
        return moved(Recipe.model_validate(said), here, here)


def write(folder: pathlib.Path) -> None:
    """All of them, over one base."""
    for name, example in EXAMPLES.items():
        recipe = read(example)
        users: dict[str, User] = {
            kind: User(Login(kind, "-"), each) for kind, each in subjects_of(RunNames(recipe.run)).items()
        }
        there = written(
            folder,
            name,
            overlay(recipe, Place(namespace=name, accelerator=example.accelerator), "-", users, example.switched),
        )
        (there / SECRETS).unlink()  # whoever runs it makes its own


@contextlib.contextmanager
def _in(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        yield folder.resolve()
    finally:
        os.chdir(before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    write(parser.parse_args().folder)
