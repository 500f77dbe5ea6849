"""Nothing of a launcher that was killed stays for long, and nothing of one that lives is touched."""

import os
import pathlib
import subprocess
import sys

from services.learner.ranks.meeting import FolderNotes, sweep


def test_what_a_killed_launcher_left_is_removed_by_the_next(tmp_path: pathlib.Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = (f"penstock-ranks-{gone.pid}", f"penstock-ranks-{os.getpid()}", "else-1")
    left, held, other = (tmp_path / f"{name}-x" for name in names)
    for folder in (left, held, other):
        (folder / "notes").mkdir(parents=True)
    sweep(tmp_path)
    assert not left.exists() and held.exists() and other.exists()


def test_notes_are_read_whole_by_whoever_reads(tmp_path: pathlib.Path) -> None:
    one, two = FolderNotes(tmp_path / "notes"), FolderNotes(tmp_path / "notes")
    one.set("at/0", "here")
    assert two.check(["at/0"]) and not two.check(["at/0", "at/1"])
    one.set("at/0", "there")
    assert two.get("at/0") == b"there" and two.multi_get(["at/0", "at/0"]) == [b"there"] * 2
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["at-0"]
