"""An export replaces what an export wrote, and nothing else: other people's files lie beside models."""

import pathlib

import pytest

from penstock.cli.commands import export
from penstock.cli.run_directory import RunRefused
from penstock.names import EXPORT_MARK


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    def never(service: str) -> list[str]:
        raise AssertionError(f"{service} was started")

    monkeypatch.setattr(export, "launcher", never)
    found = tmp_path / "runs" / "r1" / "checkpoints" / "step-00000002"
    found.mkdir(parents=True)
    (tmp_path / "base").mkdir()
    (tmp_path / "runs" / "r1" / "recipe.yaml").write_text(f"model: {{path: {tmp_path}/base}}\n")
    return found


@pytest.mark.parametrize("name", ["config.json", "notes.txt"])
def test_a_directory_that_no_export_wrote_is_left_alone(
    checkpoint: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    (tmp_path / "other" / "notes").mkdir(parents=True)
    (tmp_path / "other" / name).write_text("mine")
    with pytest.raises(RunRefused, match="other exists and no export of ours wrote it"):
        export.write_model(checkpoint, tmp_path / "other")
    assert (tmp_path / "other" / name).read_text() == "mine"


def test_the_model_that_the_run_began_with_is_never_replaced(checkpoint: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "base" / EXPORT_MARK).touch()  # it came from another run
    with pytest.raises(RunRefused, match="base is the model that the run began with"):
        export.write_model(checkpoint, tmp_path / "base")


def test_an_older_export_and_an_empty_folder_are_replaced(checkpoint: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("older", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "older" / EXPORT_MARK).touch()
    for name in ("older", "empty", "new"):
        with pytest.raises(AssertionError, match="learner was started"):
            export.write_model(checkpoint, tmp_path / name)
