"""The list says of each run how it stands, whatever state its files are in."""

import json
import pathlib

import pytest

from penstock.cli.commands.listing import _state, ls
from penstock.cli.run_directory import locked
from penstock.histories.history import summary_of


def run(runs: pathlib.Path, name: str, summary: object = None) -> pathlib.Path:
    folder = runs / name
    folder.mkdir()
    (folder / "recipe.yaml").write_text("run: r\n")
    if summary is not None:
        (folder / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return folder


def test_every_state_is_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = {"status": "done", "steps": 7, "reward_first": 0.25, "reward_last": 0.9, "reason": ""}
    run(tmp_path, "a", done)
    run(tmp_path, "b", {"status": "failed", "steps": 1, "reward_first": None, "reason": "all [groups] failed"})
    run(tmp_path, "c", {"status": "running", "steps": 3})
    run(tmp_path, "d", "{torn")
    run(tmp_path, "e", "[1]")
    with locked(run(tmp_path, "f")):
        states = {f.name: _state(f, summary_of(f)) for f in tmp_path.iterdir()}
    assert states == {
        "a": "done",
        "b": "failed",
        "c": "interrupted",
        "d": "interrupted",
        "e": "interrupted",
        "f": "under way",
    }
    ls(tmp_path)
    said = capsys.readouterr().out
    assert "0.250 → 0.900" in said and "[groups]" in said
