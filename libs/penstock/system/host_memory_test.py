import pathlib

from penstock.system.host_memory import host_memory


def test_the_least_of_machine_and_group_counts(tmp_path: pathlib.Path) -> None:
    machine, group = tmp_path / "meminfo", tmp_path / "memory.max"
    machine.write_text("MemFree: 1 kB\nMemTotal:       2048 kB\n")
    assert host_memory(machine, group) == 2 << 20
    group.write_text("max\n")
    assert host_memory(machine, group) == 2 << 20
    group.write_text("1048576\n")
    assert host_memory(machine, group) == 1 << 20
    machine.write_text("nothing of the kind")
    group.unlink()
    assert host_memory(machine, group) is None


def test_this_machine_says_how_much_it_has() -> None:
    found = host_memory()
    assert found is not None and found > 1 << 28
