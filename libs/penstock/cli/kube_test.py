"""`penstock kube` and `penstock compose`: where containers find a recipe's files, and what they refuse."""

import json
import os
import pathlib
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from penstock.cli.main import app
from penstock.tiny_model import make_model


@pytest.fixture
def files(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a recipe and all that it names."""
    folder = tmp_path / "files"
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    settings = {
        "run": "r",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl"), "eval": str(folder / "rows.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 2, "groups_per_step": 2, "group_size": 2},
        "sampling": {"max_tokens": 8},
        "generation": {"max_context": 64},
    }
    (folder / "recipe.yaml").write_text(json.dumps(settings))
    return folder


def kube(files: pathlib.Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["kube", str(files / "recipe.yaml"), "--output", str(files.parent / "k"), *words])
    return done.exit_code, " ".join(done.output.split())


def config_of(files: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((files.parent / "k" / "overlays" / "r" / "recipe.yaml").read_text())
    return found


def test_the_recipe_names_its_files_where_containers_have_them(files: pathlib.Path) -> None:
    code, said = kube(files, "--files", str(files), "--namespace", "mine")
    assert code == 0, said
    config = config_of(files)
    recipe = yaml.safe_load(config["data"]["recipe.yaml"])
    assert (recipe["model"]["path"], recipe["data"]["train"]) == ("/files/model", "/files/rows.jsonl")
    assert not (files.parent / "k" / ".recipe.yaml").exists()
    listing = yaml.safe_load((files.parent / "k" / "overlays" / "r" / "kustomization.yaml").read_text())
    assert listing["namespace"] == "mine" and "components" not in listing


def test_a_component_is_switched_on_by_one_flag_for_the_overlay_that_is_named(files: pathlib.Path) -> None:
    code, said = kube(files, "--files", str(files), "--overlay", "small", "--component", "monitoring")
    assert code == 0, said
    listing = yaml.safe_load((files.parent / "k" / "overlays" / "small" / "kustomization.yaml").read_text())
    assert listing["components"] == ["../../components/monitoring"]


def test_what_is_written_again_has_the_same_secrets(files: pathlib.Path) -> None:
    made = []
    for _ in range(2):
        assert kube(files, "--files", str(files))[0] == 0
        made.append((files.parent / "k" / "overlays" / "r" / "secrets.yaml").read_text())
    assert made[0] == made[1] and "learner:" in made[0]
    assert (files.parent / "k" / "overlays" / "r" / ".kept").stat().st_mode & 0o777 == 0o700


def test_a_compose_file_has_all_that_it_names_beside_it(files: pathlib.Path) -> None:
    output = files.parent / "c"
    words = ["compose", str(files / "recipe.yaml"), "--files", str(files), "--output", str(output)]
    words += ["--user", f"{os.getuid()}:{os.getgid()}"]  # Bazel's sandbox knows no other user
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    services = yaml.safe_load((output / "compose.yaml").read_text())["services"]
    sources = {each.partition(":")[0] for service in services.values() for each in service["volumes"]}
    assert all((output / source).exists() for source in sources) and str(files) in sources
    assert (output / "secrets").stat().st_mode & 0o777 == 0o700
    assert yaml.safe_load((output / "recipe.yaml").read_text())["model"]["path"] == "/files/model"


def test_files_are_found_by_bare_names_and_by_patterns(files: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    raw = json.loads((files / "recipe.yaml").read_text())
    raw["model"]["path"], raw["data"] = "model", {"train": "rows.jsonl", "eval": str(files / "row*.jsonl")}
    (files / "recipe.yaml").write_text(json.dumps(raw))
    assert kube(files)[0] == 0
    recipe = yaml.safe_load(config_of(files)["data"]["recipe.yaml"])
    assert recipe["model"]["path"] == "/files/model"
    assert (recipe["data"]["train"], recipe["data"]["eval"]) == ("/files/rows.jsonl", "/files/row*.jsonl")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--output", "{files}/compose"], "is below --files"),
        (["--user", "me"], "'me' is no UID:GID"),
        (["--accelerator", "cuda", "--gpus", "0"], "--gpus: this host has none"),
        (["packages.folder={files}"], "packages.folder: "),
    ],
)
def test_what_compose_cannot_do_is_refused_in_a_sentence(files: pathlib.Path, words: list[str], why: str) -> None:
    given = ["--files", str(files), "--output", str(files.parent / "c"), *(word.format(files=files) for word in words)]
    done = CliRunner().invoke(app, ["compose", str(files / "recipe.yaml"), *given])
    assert done.exit_code == 2 and why in " ".join(done.output.split()), done.output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--files", "/usr/bin"], "is not below /usr/bin; --files names the folder"),
        (["--accelerator", "tpu"], "'tpu' is neither cpu nor cuda"),
        (["--component", "mesh"], "--component: there is no 'mesh'; there are monitoring, tls, autoscaling"),
        (["--overlay", "../mine"], "--overlay: '../mine' is no name of a folder"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(files: pathlib.Path, words: list[str], why: str) -> None:
    code, said = kube(files, "--files", str(files), *words)
    assert code == 2 and why in said, said
