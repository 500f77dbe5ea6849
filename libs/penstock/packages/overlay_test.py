"""The hash of an overlay says what is in it, not where and when it was put there."""

import pathlib

from penstock.packages import Overlay


def overlay(folder: pathlib.Path, files: dict[str, str]) -> Overlay:
    for name, text in files.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Overlay(folder)


def test_the_same_packages_have_the_same_hash_wherever_they_are(tmp_path: pathlib.Path) -> None:
    first = overlay(tmp_path / "a", {"m.py": "x", "m-1.dist-info/METADATA": "y", "m-1.dist-info/RECORD": "here"})
    second = overlay(tmp_path / "b", {"m-1.dist-info/METADATA": "y", "m-1.dist-info/direct_url.json": "z", "m.py": "x"})
    overlay(tmp_path / "b", {"__pycache__/m.pyc": "compiled"})
    assert first.sha256() == second.sha256()


def test_another_byte_name_or_border_between_files_has_another_hash(tmp_path: pathlib.Path) -> None:
    contents = [{"m.py": "x"}, {"m.py": "y"}, {"n.py": "x"}, {"m.py": "x", "n.py": ""}, {"m.py": "", "n.py": "x"}]
    assert len({overlay(tmp_path / str(i), each).sha256() for i, each in enumerate(contents)}) == len(contents)


def test_what_was_asked_for_is_a_line_each(tmp_path: pathlib.Path) -> None:
    assert Overlay(tmp_path).requirements == []
    (tmp_path / "requirements.txt").write_text("wandb\n/home/me/my_package\n")
    assert Overlay(tmp_path).requirements == ["wandb", "/home/me/my_package"]
