"""A retired version's file is filled again only where nobody could notice."""

import os
import pathlib

from services.weight_sync.spares import Spare

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
