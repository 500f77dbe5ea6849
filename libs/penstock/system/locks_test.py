"""Two processes and one folder."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from penstock.system import locks
from penstock.system.locks import InUse, alone

HOLDING = """
import pathlib, sys
from penstock.system.locks import alone
with alone(pathlib.Path(sys.argv[1]), ""):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another(folder: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the folder."""
    command = [sys.executable, "-c", HOLDING, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holding:
        assert holding.stdout is not None and holding.stdout.readline() == "held\n"
        yield holding
        holding.kill()


def taken(folder: pathlib.Path) -> str:
    """What is said where another one has it; empty where it is had."""
    try:
        with alone(folder, "wait for it"):
            return ""
    except InUse as refused:
        return str(refused)


def test_a_folder_is_one_processs_and_its_number_is_said(tmp_path: pathlib.Path) -> None:
    with another(tmp_path) as holding:
        assert taken(tmp_path) == f"{tmp_path} is in use by another process ({holding.pid}); wait for it"
        (tmp_path / "beside").mkdir()
        assert not taken(tmp_path / "beside")


def test_a_process_that_was_killed_leaves_no_lock(tmp_path: pathlib.Path) -> None:
    with another(tmp_path) as holding:
        holding.kill()
        holding.wait()
        assert not taken(tmp_path)
    assert not taken(tmp_path), "nor does one that has ended its block"


@pytest.mark.parametrize("said", ["", "1: POSIX  ADVISORY  WRITE 7 00:1b:1 0 EOF\n", None])
def test_one_whose_number_cannot_be_told_is_another_process(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    listed = tmp_path / "locks"
    if said is not None:
        listed.write_text(said)
    monkeypatch.setattr(locks, "LOCKS", listed)
    with another(tmp_path):
        assert taken(tmp_path) == f"{tmp_path} is in use by another process; wait for it"
