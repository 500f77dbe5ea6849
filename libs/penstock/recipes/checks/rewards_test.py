"""Credentials and bounds of rewards that could not be meant are refused, each with its key."""

import pathlib

import pytest

from penstock.recipes import RecipeError, resolve
from penstock.tiny_model import make_model

AWAY, HERE = "rewards.example:443", "127.0.0.1:7000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("rewards")
    make_model(made / "model", hidden=32, layers=1, intermediate=64)
    (made / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (made / "file").write_text("x\n")
    return made


def refused(folder: pathlib.Path, reward: dict[str, object]) -> list[str]:
    raw = {
        "run": "r1",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl")},
        "environment": {"name": "e", "rewards": [{"name": "r", **reward}]},
        "algorithm": {"steps": 1},
    }
    try:
        resolve(raw)
    except RecipeError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("credentials", "address", "words"),
    [
        ({"token_file": "file"}, None, "credentials: is for another team's service, and there is no address"),
        ({"token_file": "none"}, HERE, "credentials.token_file: no file"),
        ({"certificate": "file"}, HERE, "credentials: certificate and key belong together"),
        (
            {"token_file": "file"},
            AWAY,
            "credentials.token_file: would cross the network to rewards.example:443",
        ),
    ],
)
def test_credentials_that_could_not_be_used(
    folder: pathlib.Path, credentials: dict[str, str], address: str | None, words: str
) -> None:
    given: dict[str, object] = {"credentials": {key: str(folder / name) for key, name in credentials.items()}}
    (problem,) = refused(folder, given | ({"address": address} if address else {}))
    assert problem.startswith(f"environment.rewards[0].{words}")


def test_bounds_that_cross(folder: pathlib.Path) -> None:
    assert refused(folder, {"least": 2.0, "greatest": 1.0}) == ["environment.rewards[0].least: 2 is above greatest 1"]
    assert refused(folder, {"least": 1.0, "greatest": 1.0}) == []


def test_credentials_that_can_be_used(folder: pathlib.Path) -> None:
    file = str(folder / "file")
    assert refused(folder, {"address": HERE, "credentials": {"token_file": file}}) == []
    assert refused(folder, {"address": AWAY, "credentials": {"token_file": file, "authority": file}}) == []
