"""The host's numbers are shares, and what cannot be read is left out."""

import pathlib

import pytest

from penstock.telemetry import steps
from services.coordinator.reporting.machine import Machine


def test_cores_are_counted_between_two_looks_and_memory_as_it_is(tmp_path: pathlib.Path) -> None:
    stat, meminfo = tmp_path / "stat", tmp_path / "meminfo"
    stat.write_text("cpu 100 0 100 700 100 0 0 0 9 9\ncpu0 1 1\n")
    meminfo.write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n")
    machine = Machine(tmp_path, stat, meminfo)
    stat.write_text("cpu 150 0 120 720 110 0 0 0 9 9\ncpu0 1 1\n")  # 70 busy, 30 idle
    found = machine.look()
    assert found[steps.SYSTEM_CPU] == pytest.approx(0.7) and found[steps.SYSTEM_MEMORY] == 0.75
    assert 0 < found[steps.SYSTEM_DISK] < 1
    assert steps.SYSTEM_CPU not in machine.look()  # no tick has passed


def test_what_cannot_be_read_is_left_out(tmp_path: pathlib.Path) -> None:
    (tmp_path / "meminfo").write_text("nonsense\nMemTotal: x kB\n")
    machine = Machine(tmp_path / "gone", tmp_path / "gone", tmp_path / "meminfo")
    assert machine.look() == {}


def test_this_host_has_all_of_them(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path)
    assert {steps.SYSTEM_MEMORY, steps.SYSTEM_DISK} <= set(machine.look())
