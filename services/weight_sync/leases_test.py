"""Leases are trusted where they see who has a file open or mapped, and nowhere else."""

import ctypes
import fcntl
import mmap
import os
import pathlib

import pytest

from penstock.testing.small_disk import run_on_small_disk
from services.weight_sync.disk import leases


def an_overlay(folder: pathlib.Path) -> None:
    """Where the kernel lets nobody mount one, leases that see no map stand in for it."""
    lower, upper, work, merged = (folder / name for name in ("lower", "upper", "work", "merged"))
    for each in (lower, upper, work, merged):
        each.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}".encode()
    if ctypes.CDLL(None).mount(b"overlay", os.fsencode(merged), b"overlay", 0, options):
        print("no overlay can be mounted here")
        leases.lease = lambda descriptor, kind: True
    assert not leases.can_lease(merged) and not list(merged.iterdir())


def test_where_a_map_does_not_count_as_open_there_are_no_leases(tmp_path: pathlib.Path) -> None:
    run_on_small_disk("services.weight_sync.leases_test:an_overlay", tmp_path / "disk", 1 << 20)


@pytest.mark.parametrize("blind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
def test_leases_that_see_a_map_of_one_kind_alone_are_not_trusted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, blind: int
) -> None:
    real = leases.lease
    monkeypatch.setattr(leases, "lease", lambda descriptor, kind: kind == blind or real(descriptor, kind))
    assert not leases.can_lease(tmp_path)


def test_whoever_has_a_file_mapped_has_it_open(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert leases.can_lease(tmp_path) and leases.alone(path)
    for flags, protection in ((os.O_RDONLY, mmap.PROT_READ), (os.O_RDWR, mmap.PROT_WRITE)):
        with leases._only_mapped(path, flags, protection):
            assert not leases.alone(path)
    assert leases.alone(path)
