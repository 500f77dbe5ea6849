"""A retired version's file is filled again only where nobody could notice."""

import errno
import os
import pathlib

import pytest

from services.weight_sync.disk import spares
from services.weight_sync.disk.spares import Spare

SIZE = 1000


def retired(folder: pathlib.Path, data: bytes = b"o" * SIZE) -> pathlib.Path:
    made = folder / "retired.bin"
    made.write_bytes(data)
    return made


def test_a_file_that_has_another_name_is_not_filled_again(tmp_path: pathlib.Path) -> None:
    spare, file, place = Spare(tmp_path, leases=True), retired(tmp_path), tmp_path / "next.staging"
    os.link(file, tmp_path / "backup")
    spare.keep(file)
    spare.give(place, SIZE)
    assert [each.name for each in tmp_path.iterdir()] == ["backup"]


def test_a_file_that_cannot_be_kept_goes(tmp_path: pathlib.Path) -> None:
    spare, file = Spare(tmp_path, leases=True), retired(tmp_path)
    (tmp_path / "spare.staging").mkdir()
    spare.keep(file)
    spare.keep(file)
    assert not file.exists()


def test_a_file_of_which_it_cannot_be_known_makes_room_for_the_next(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_ours(path: pathlib.Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    spare = Spare(tmp_path, leases=True)
    spare.keep(retired(tmp_path))
    monkeypatch.setattr(spares, "alone", not_ours)
    spare.give(tmp_path / "next.staging", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("leased", [True, False])
def test_a_file_that_becomes_the_spare_while_another_is_checked_is_not_taken_for_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, leased: bool
) -> None:
    spare, place = Spare(tmp_path, leases=True), tmp_path / "next.staging"
    spare.keep(retired(tmp_path))
    other = retired(tmp_path, b"r" * SIZE)
    with other.open("rb") as reader:

        def checking(path: pathlib.Path) -> bool:
            spare.keep(other)  # a commit meanwhile, whose retired version a receiver reads
            return leased

        monkeypatch.setattr(spares, "alone", checking)
        spare.give(place, SIZE)
        if leased:
            assert place.read_bytes() == b"o" * SIZE
        else:
            assert not place.exists()
        monkeypatch.undo()
        spare.give(place, SIZE)
        assert not place.exists() and reader.read() == b"r" * SIZE


def test_of_two_that_want_the_spare_at_once_one_has_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare, places = Spare(tmp_path, leases=True), [tmp_path / f"{n}.staging" for n in range(2)]
    spare.keep(retired(tmp_path))

    def checking(path: pathlib.Path) -> bool:
        spare.give(places[1], SIZE)
        return True

    monkeypatch.setattr(spares, "alone", checking)
    spare.give(places[0], SIZE)
    assert list(tmp_path.iterdir()) == [places[0]]
